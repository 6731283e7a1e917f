/**
 * A QED image as a node: the header's acts, and opening. What it does with data is shared with qcow2 (`src/formats/mapped`).
 *
 * `need_check` stands for the mark of ADR 1: it is set, durably, before the first change, and cleared by a clean close. An image
 * that has it when it is opened for writing is repaired: our own log is replayed, entries that cannot be true are dropped, leaked
 * clusters are given back.
 */
import type { BackingReference, BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { CheckOptions, CheckResult, FormatDetails, MappedFormatNode, OpenFormatOptions } from "../format.ts";
import type { MappingCodec } from "../mapped/codec.ts";
import { type Geometry, geometry } from "../mapped/geometry.ts";
import { HostMap, refuseRepeats, tableOffsets } from "../mapped/host-map.ts";
import type { ImageHeader } from "../mapped/image-header.ts";
import { lastRecords, type MappingRecord } from "../mapped/mapping-log.ts";
import { MappedNode } from "../mapped/node.ts";
import { newEntry } from "../mapped/runs.ts";
import { MappingTables } from "../mapped/tables.ts";
import { QedAllocator } from "./allocator.ts";
import { checkQed, dropInvalidEntries } from "./check.ts";
import { qedCodec } from "./entries.ts";
import { isMarked, type QedHeader, qedMaxSize, qedTableBytes, qemuCannotOpen } from "./header.ts";
import { readQedHeader, writeQedHeader } from "./header-file.ts";
import { type QedHeaderUpdate, setBacking, setImageSize, setMark } from "./header-update.ts";

/**
 * Opens a QED image.
 *
 * @throws {StreamdiskError} `invalid-image`, `unsupported`, and what `openBacking` throws
 */
export async function openQed(file: BlockNode, options: OpenFormatOptions): Promise<MappedFormatNode> {
  const { header, backing: reference } = await readQedHeader(file);
  const tableBytes = qedTableBytes(header);
  const shape = geometry(header.clusterSize, tableBytes, 8, 1);
  const codec = qedCodec({ clusterSize: header.clusterSize, tableBytes, name: file.name });
  const l1 = await readL1(file, header, header.imageSize);
  const image = { file, codec, geometry: shape, header, l1 };

  const foreign = qemuCannotOpen(header.clusterSize, header.tableClusters);
  const warnings = foreign === undefined ? [] : [`'${file.name}': ${foreign}`];
  const { readOnly, log } = options;
  // Without the mark somebody else has written to the image since: what a log says is of a past that is over (ADR 1).
  if (!isMarked(header) && !readOnly) log?.remove();
  const records = isMarked(header) ? lastRecords(log?.replay() ?? []) : [];
  // What acknowledged writes wrote would be taken for leaks, and given away, if a check came before the log.
  const repairing = header.needCheck && !readOnly && (options.forCheck !== true || records.length > 0);
  if (repairing) warnings.push(...(await dropInvalidEntries(image)));

  const l2Offsets = tableOffsets(codec, l1);
  if (options.forCheck !== true) refuseRepeats(l2Offsets, file.name);
  const hostMap = new HostMap(header.clusterSize, l2Offsets, tableBytes);
  hostMap.setArea("the header", 0, header.headerClusters * header.clusterSize);
  hostMap.setArea("the L1 table", header.l1Offset, tableBytes);
  const allocator = new QedAllocator(file, header.clusterSize);
  allocator.reserve(recordsEnd(records, codec, shape));
  const tables = new MappingTables({
    file,
    codec,
    geometry: shape,
    allocator,
    hostMap,
    l1,
    l1Offset: header.l1Offset,
  });
  if (readOnly) tables.patch(records);

  const node = new MappedNode({
    format: "qed",
    file,
    codec,
    geometry: shape,
    tables,
    allocator,
    hostMap,
    header: new QedImageHeader(file, header, tables, allocator, { codec, geometry: shape }),
    log,
    length: header.imageSize,
    readOnly,
    backingReference: reference,
    backing: reference === undefined ? undefined : await options.openBacking?.(reference),
    warnings,
  });
  if (repairing) {
    await node.replay(records);
    // No later program would find them: QED has no list of free clusters.
    await node.check({ repair: "leaks" });
  }
  return node;
}

/** As much of the L1 table as a virtual size needs: the whole could have a gigabyte. */
async function readL1(file: BlockNode, header: QedHeader, imageSize: number): Promise<Uint8Array> {
  const tableBytes = qedTableBytes(header);
  const entries = Math.ceil(imageSize / ((tableBytes / 8) * header.clusterSize));
  const l1 = new Uint8Array(Math.min(entries * 8, tableBytes));
  await file.read(header.l1Offset, l1);
  return l1;
}

/** One past the last host byte that logged mappings refer to. */
function recordsEnd(records: readonly MappingRecord[], codec: MappingCodec, shape: Geometry): number {
  const entry = newEntry();
  let end = 0;
  for (const record of records) {
    const bytes = record.entry;
    codec.decode(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, entry);
    end = Math.max(end, entry.host + shape.clusterSize);
  }
  return end;
}

class QedImageHeader implements ImageHeader {
  readonly #file: BlockNode;
  readonly #tables: MappingTables;
  readonly #allocator: QedAllocator;
  readonly #shape: { readonly codec: MappingCodec; readonly geometry: Geometry };
  #header: QedHeader;

  constructor(
    file: BlockNode,
    header: QedHeader,
    tables: MappingTables,
    allocator: QedAllocator,
    shape: { readonly codec: MappingCodec; readonly geometry: Geometry },
  ) {
    this.#file = file;
    this.#header = header;
    this.#tables = tables;
    this.#allocator = allocator;
    this.#shape = shape;
  }

  async #write(update: QedHeaderUpdate): Promise<void> {
    this.#header = await writeQedHeader(this.#file, update);
  }

  async markDirty(): Promise<void> {
    await this.#write(setMark(this.#header, true));
  }

  async markClean(): Promise<void> {
    await this.#write(setMark(this.#header, false));
  }

  allowResize(): void {}

  async setLength(length: number): Promise<void> {
    await this.#write(setImageSize(this.#header, length, this.#file.name));
  }

  /** The L1 table is as large as it ever gets; more of it comes into use. */
  async growL1(length: number): Promise<() => Promise<void>> {
    const { clusterSize, tableClusters, l1Offset } = this.#header;
    const most = qedMaxSize(clusterSize, tableClusters);
    if (length <= most) {
      const l1 = await readL1(this.#file, this.#header, length);
      return async () => this.#tables.moveL1(l1, l1Offset);
    }
    throw new StreamdiskError(
      "invalid-argument",
      `Could not grow '${this.#file.name}' to ${length} bytes: a QED image with its table size holds ${most} at the most`,
      { node: this.#file.name, operation: "resize", length },
    );
  }

  async setBacking(reference: BackingReference | undefined): Promise<void> {
    await this.#write(setBacking(this.#header, reference, this.#file.name));
  }

  describe(): FormatDetails {
    return { "dirty-flag": this.#header.needCheck, "cluster-size": this.#header.clusterSize };
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    const l1 = this.#tables.l1.bytes;
    const result = await checkQed({ file: this.#file, header: this.#header, l1, ...this.#shape }, options);
    if (result["leaks-fixed"] > 0) {
      this.#tables.forget();
      this.#allocator.reset();
    }
    return result;
  }
}
