/**
 * A qcow2 image as a node: opening, and the acts upon its header. What it does with data is shared with QED (`src/formats/mapped`).
 *
 * The dirty bit of version 3 stands for the mark of ADR 1: set, durably, before the first change and cleared by a clean close. An image
 * that has it when it is opened for writing is repaired: its reference counts are counted anew, with what our own log says as
 * references, and the log is replayed. Version 2 has no such bit: it uses no log, and leaks stay until a check.
 */
import type { BackingReference, BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { CheckOptions, CheckResult, FormatDetails, MappedFormatNode, OpenFormatOptions } from "../format.ts";
import { geometry, roundUp } from "../mapped/geometry.ts";
import { HostMap, refuseRepeats, tableOffsets } from "../mapped/host-map.ts";
import type { ImageHeader } from "../mapped/image-header.ts";
import { lastRecords } from "../mapped/mapping-log.ts";
import { MappedNode } from "../mapped/node.ts";
import { MappingTables } from "../mapped/tables.ts";
import { type Bitmap, bitmapWarning, readBitmaps } from "./bitmaps.ts";
import { checkQcow2, type Qcow2Image, repairRefcounts } from "./check.ts";
import { decompressor } from "./compressed.ts";
import { describeQcow2 } from "./describe.ts";
import { qcow2Codec } from "./entries.ts";
import { AUTOCLEAR } from "./features.ts";
import {
  compressionType,
  hasExtendedL2,
  isCorrupt,
  isDirty,
  isMarked,
  l1EntriesFor,
  MAX_L1_BYTES,
  mustBeWritable,
  type Qcow2Header,
} from "./header.ts";
import { readHeader, writeHeader } from "./header-file.ts";
import { type HeaderUpdate, setBacking, setFields, setMark } from "./header-update.ts";
import { blockOffsets } from "./refcount-table.ts";
import { Refcounts } from "./refcounts.ts";
import { readSnapshots, type Snapshot } from "./snapshots.ts";

/**
 * Opens a qcow2 image.
 *
 * @throws {StreamdiskError} `invalid-image`, `unsupported`, `refused` for writing one that is marked corrupt, and what
 * `openBacking` throws
 */
export async function openQcow2(file: BlockNode, options: OpenFormatOptions): Promise<MappedFormatNode> {
  const forCheck = options.forCheck === true;
  const header = await readHeader(file, { forCheck });
  if (!options.readOnly && !forCheck) mustBeWritable(header, file.name);
  const { clusterSize, version } = header;
  const extendedL2 = hasExtendedL2(header);
  const codec = qcow2Codec({ version, clusterBits: header.clusterBits, extendedL2, name: file.name });
  const shape = geometry(clusterSize, clusterSize, codec.entryBytes, codec.subclusters);
  const l1 = await readArea(file, header.l1.offset, header.l1.entries * 8);
  const table = await readArea(file, header.refcountTable.offset, header.refcountTable.clusters * clusterSize);
  const snapshots = await readSnapshots(file, header);

  const bitmaps = await readBitmaps(file, header);
  const l2Offsets = tableOffsets(codec, l1);
  if (!forCheck) refuseRepeats(l2Offsets, file.name);
  const hostMap = new HostMap(clusterSize, concat(l2Offsets, blockOffsets(table)), clusterSize);
  hostMap.setArea("the header", 0, clusterSize);
  hostMap.setArea("the L1 table", header.l1.offset, l1.length);
  hostMap.setArea("the refcount table", header.refcountTable.offset, table.length);
  hostMap.setArea("the snapshot table", header.snapshots.offset, snapshots.length);
  for (const { name, l1Offset, l1Entries } of snapshots.list) {
    hostMap.setArea(`the L1 table of snapshot '${name}'`, l1Offset, l1Entries * 8);
  }

  const holder = { header };
  const refcounts = new Refcounts({
    file,
    clusterSize,
    hostMap,
    refcountBits: 2 ** header.refcountOrder,
    table,
    tableOffset: header.refcountTable.offset,
    onTableMoved: (offset, clusters) => {
      holder.header = setFields(holder.header, { refcountTable: { offset, clusters } }).header;
    },
  });
  const tables = new MappingTables({
    file,
    codec,
    geometry: shape,
    allocator: refcounts,
    hostMap,
    l1,
    l1Offset: header.l1.offset,
  });
  const image: Qcow2Image = { file, codec, geometry: shape, header, l1, refcounts };
  const log = version === 3 ? options.log : undefined;
  // Without the mark somebody else has written to the image since: what a log says is of a past that is over (ADR 1).
  if (!isMarked(header) && !options.readOnly) log?.remove();
  const records = isMarked(header) ? lastRecords(log?.replay() ?? []) : [];
  // What acknowledged writes wrote would be taken for leaks, and given away, if a check came before the log.
  const repairing = isDirty(header) && !options.readOnly && (!forCheck || records.length > 0);
  if (options.readOnly) tables.patch(records);

  const node = new MappedNode({
    format: "qcow2",
    file,
    codec,
    geometry: shape,
    tables,
    allocator: refcounts,
    hostMap,
    header: new Qcow2ImageHeader(holder, image, tables, hostMap, snapshots.list, bitmaps),
    log,
    decompress: decompressor({ type: compressionType(header), clusterSize, node: file.name }),
    length: header.size,
    readOnly: options.readOnly || (forCheck && isCorrupt(header)),
    backingReference: header.backing,
    backing: header.backing === undefined ? undefined : await options.openBacking?.(header.backing),
    warnings: options.readOnly ? [] : [bitmapWarning(bitmaps, file.name)].filter((warning) => warning !== undefined),
  });
  if (repairing) {
    await repairRefcounts(image, records);
    await node.replay(records);
  }
  return node;
}

function concat(a: Float64Array, b: Float64Array): Float64Array {
  const all = new Float64Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

async function readArea(file: BlockNode, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  if (length > 0) await file.read(offset, bytes);
  return bytes;
}

class Qcow2ImageHeader implements ImageHeader {
  readonly #holder: { header: Qcow2Header };
  readonly #image: Qcow2Image;
  readonly #tables: MappingTables;
  readonly #hostMap: HostMap;
  readonly #snapshots: readonly Snapshot[];
  readonly #bitmaps: readonly Bitmap[];

  constructor(
    holder: { header: Qcow2Header },
    image: Qcow2Image,
    tables: MappingTables,
    hostMap: HostMap,
    snapshots: readonly Snapshot[],
    bitmaps: readonly Bitmap[],
  ) {
    this.#holder = holder;
    this.#image = image;
    this.#tables = tables;
    this.#hostMap = hostMap;
    this.#snapshots = snapshots;
    this.#bitmaps = bitmaps;
  }

  get #name(): string {
    return this.#image.file.name;
  }

  async #write(update: HeaderUpdate): Promise<void> {
    this.#holder.header = await writeHeader(this.#image.file, update);
  }

  async markDirty(): Promise<void> {
    const { header } = this.#holder;
    if (header.version === 2) return;
    await this.#write(setMark(header, true));
  }

  async markClean(): Promise<void> {
    const { header } = this.#holder;
    if (header.version === 3) await this.#write(setMark(header, false));
  }

  allowResize(): void {
    if (this.#snapshots.length === 0 || this.#holder.header.version === 3) return;
    this.#refuse("change its size", "in version 2 they share it; delete them first (qemu-img snapshot -d)");
  }

  async setLength(size: number): Promise<void> {
    await this.#write(setFields(this.#holder.header, { size }));
  }

  async growL1(length: number): Promise<() => Promise<void>> {
    const { refcounts, file, geometry: shape } = this.#image;
    const { header } = this.#holder;
    const entries = l1EntriesFor(length, header.clusterSize, hasExtendedL2(header));
    const bytes = new Uint8Array(roundUp(entries * 8, header.clusterSize));
    if (entries * 8 > MAX_L1_BYTES) {
      throw new StreamdiskError(
        "invalid-argument",
        `Could not grow '${this.#name}' to ${length} bytes: its L1 table would need ${entries * 8} bytes, and ${MAX_L1_BYTES} is the limit with clusters of ${header.clusterSize}`,
        { node: this.#name, operation: "resize", length },
      );
    }
    const old = this.#tables.l1;
    bytes.set(old.bytes);
    const clusters = bytes.length / shape.clusterSize;
    const { host } = await refcounts.allocate(clusters, clusters);
    await file.write(host, bytes);
    return async () => {
      await this.#write(setFields(this.#holder.header, { l1: { offset: host, entries } }));
      this.#tables.moveL1(bytes.subarray(0, entries * 8), host);
      this.#hostMap.setArea("the L1 table", host, entries * 8);
      if (old.bytes.length > 0) this.#tables.free(old.offset, old.bytes.length);
    };
  }

  async setBacking(reference: BackingReference | undefined): Promise<void> {
    if (this.#snapshots.length > 0) {
      this.#refuse("change its backing file", "they read through the link; delete them first (qemu-img snapshot -d)");
    }
    await this.#write(setBacking(this.#holder.header, reference, this.#name));
  }

  #refuse(what: string, why: string): never {
    const names = this.#snapshots.map(({ name }) => `'${name}'`).join(", ");
    throw new StreamdiskError(
      "refused",
      `Could not ${what}: '${this.#name}' has internal snapshots (${names}), and ${why}`,
      { node: this.#name },
    );
  }

  describe(): FormatDetails {
    const { header } = this.#holder;
    return describeQcow2(
      header,
      this.#snapshots,
      (header.features.autoclear & AUTOCLEAR.bitmaps) === 0n ? [] : this.#bitmaps,
    );
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    const image = { ...this.#image, header: this.#holder.header, l1: this.#tables.l1.bytes };
    const result = await checkQcow2(image, options);
    if (options.repair !== undefined) this.#tables.forget();
    return result;
  }
}
