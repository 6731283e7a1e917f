/**
 * An image with a two-level mapping, as a node: what QED and qcow2 share of behaviour. Each format brings a codec, an allocator and
 * the few acts upon its header (`ImageHeader`).
 *
 * Locks: a request that may change the mapping holds its clusters exclusively, one that overwrites data in place holds
 * them shared; `resize` holds all of them. Reads take none (see reader.ts). A checkpoint takes none either: it writes
 * what is mapped, and only finished data is. Lock order: clusters, then a table being prepared, then the allocator.
 *
 * Before the first change of any kind the header is marked (`markDirty`), durably; a clean close unmarks it.
 */
import {
  type BackingReference,
  type BlockNode,
  type Extent,
  RangeLock,
  type RangeLockHandle,
  validateOpen,
  validateRange,
  validateWritable,
} from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { CheckOptions, CheckResult, FormatDetails, FormatName, MappedFormatNode } from "../format.ts";
import type { ClusterAllocator } from "./allocator.ts";
import { Checkpoints } from "./checkpoint.ts";
import type { MappingCodec } from "./codec.ts";
import { type Geometry, roundDown, roundUp } from "./geometry.ts";
import type { HostMap } from "./host-map.ts";
import type { ImageHeader } from "./image-header.ts";
import type { MappingLog, MappingRecord } from "./mapping-log.ts";
import { type Decompress, MappedReader } from "./reader.ts";
import { replay } from "./replay.ts";
import { grow, type Resizable, shrink } from "./resize.ts";
import type { MappingTables } from "./tables.ts";
import { MappedWriter } from "./writer.ts";
import { MappedZeroer } from "./zeroer.ts";

export interface MappedNodeOptions {
  readonly format: FormatName;
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  readonly allocator: ClusterAllocator;
  readonly hostMap: HostMap;
  readonly header: ImageHeader;
  readonly log: MappingLog | undefined;
  readonly decompress?: Decompress;
  readonly length: number;
  readonly readOnly: boolean;
  readonly backingReference: BackingReference | undefined;
  readonly backing: BlockNode | undefined;
  readonly warnings: readonly string[];
}

export class MappedNode implements MappedFormatNode {
  readonly format: FormatName;
  readonly file: BlockNode;
  readonly clusterSize: number;
  readonly grain: number;
  readonly grows = false;
  readonly readOnly: boolean;
  readonly warnings: readonly string[];
  readonly #options: MappedNodeOptions;
  readonly #checkpoints: Checkpoints;
  readonly #lock = new RangeLock();
  readonly #reader: MappedReader;
  readonly #writer: MappedWriter;
  readonly #zeroer: MappedZeroer;
  readonly #resizing: Resizable;
  #length: number;
  #backing: BlockNode | undefined;
  #backingReference: BackingReference | undefined;
  #marking: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: MappedNodeOptions) {
    this.#options = options;
    this.format = options.format;
    this.file = options.file;
    this.clusterSize = options.geometry.clusterSize;
    this.grain = options.geometry.grain;
    this.readOnly = options.readOnly;
    this.warnings = options.warnings;
    this.#length = options.length;
    this.#backing = options.backing;
    this.#backingReference = options.backingReference;
    this.#checkpoints = new Checkpoints(options.file, options.tables, options.allocator, options.log);
    const parts = {
      ...options,
      checkpoints: this.#checkpoints,
      hasBacking: () => this.#backingReference !== undefined,
      backing: () => this.#backing,
      length: () => this.#length,
      decompress: options.decompress,
    };
    this.#reader = new MappedReader(parts);
    this.#writer = new MappedWriter({ ...parts, reader: this.#reader });
    this.#zeroer = new MappedZeroer({ ...parts, writer: this.#writer, reclaims: options.allocator.reclaims });
    this.#resizing = {
      ...parts,
      reader: this.#reader,
      writer: this.#writer,
      zeroer: this.#zeroer,
      setLength: (length) => {
        this.#length = length;
      },
    };
  }

  get name(): string {
    return this.file.name;
  }

  get length(): number {
    return this.#length;
  }

  get backing(): BlockNode | undefined {
    return this.#backing;
  }

  get backingReference(): BackingReference | undefined {
    return this.#backingReference;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#validate("read", offset, target.length);
    const { activity } = this.#checkpoints;
    const ticket = activity.begin();
    try {
      await this.#reader.read(offset, target, signal);
    } finally {
      activity.end(ticket);
    }
  }

  readNow(offset: number, target: Uint8Array): boolean {
    const valid = this.#closing === undefined && offset >= 0 && offset + target.length <= this.#length;
    return valid && this.#reader.readNow(offset, target);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#changing("write", offset, data.length, async () => {
      if (await this.#overwrite(offset, data)) return;
      await this.#exclusively(offset, data.length, async () => {
        const placed = await this.#writer.place(offset, data, false);
        return placed.mustCheckpoint;
      });
    });
  }

  /** Tries to write without a change of the mapping. */
  async #overwrite(offset: number, data: Uint8Array): Promise<boolean> {
    const { tables, geometry } = this.#options;
    const sliceIndex = Math.floor(offset / geometry.sliceSpan);
    if (Math.floor((offset + data.length - 1) / geometry.sliceSpan) !== sliceIndex) return false;
    const taken = this.#lock.acquire(...this.#clusters(offset, data.length), true);
    const handle = taken instanceof Promise ? await taken : taken;
    try {
      const slice = tables.peek(sliceIndex) ?? (await tables.load(sliceIndex));
      if (slice === null) return false;
      const placed = await this.#writer.overwrite(slice, offset, data);
      if (placed === undefined) return false;
      if (placed.mustCheckpoint) await this.#checkpoints.run(false);
      return true;
    } finally {
      this.#lock.release(handle);
    }
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#changing("write zeroes to", offset, length, async () => {
      const end = offset + length;
      // The end of the disk counts as a boundary: what lies past it reads as zeroes anyway.
      const wholeEnd = end === this.#length ? roundUp(end, this.grain) : roundDown(end, this.grain);
      const wholeStart = Math.min(roundUp(offset, this.grain), wholeEnd);
      const head = Math.min(end, Math.max(offset, wholeStart)) - offset;
      if (wholeStart >= wholeEnd) return this.#zeroPart(offset, length);
      if (head > 0) await this.#zeroPart(offset, head);
      await this.#zeroWhole(wholeStart, wholeEnd);
      if (end > wholeEnd) await this.#zeroPart(wholeEnd, end - wholeEnd);
    });
  }

  /** Zeroes less than two grains by writing. A part that reads as zeroes already stays as it is. */
  async #zeroPart(offset: number, length: number): Promise<void> {
    await this.#exclusively(offset, length, async () => {
      let must = false;
      for (const extent of await this.#reader.extents(offset, length)) {
        const silent = extent.kind === "zero" || (extent.kind === "missing" && this.#backingReference === undefined);
        if (silent) {
          // By a mapping that would be lost with the process, perhaps: whoever made it waits still.
          must ||= this.#anyUnlogged(extent.offset, extent.length);
          continue;
        }
        const placed = await this.#writer.place(extent.offset, new Uint8Array(extent.length), false);
        must ||= placed.mustCheckpoint;
      }
      return must;
    });
  }

  async #zeroWhole(start: number, end: number): Promise<void> {
    await this.#exclusively(start, end - start, async () => {
      const zeroed = await this.#zeroer.zero(start, end, false);
      return zeroed.mustCheckpoint;
    });
  }

  canZeroFast(offset: number, length: number): boolean {
    return this.#zeroer.isFast(offset, length);
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#changing("discard", offset, length, async () => {
      if (!this.#options.codec.hasZero && this.#backingReference !== undefined) return;
      const end = offset + length === this.#length ? roundUp(this.#length, this.grain) : offset + length;
      const wholeStart = roundUp(offset, this.grain);
      const wholeEnd = roundDown(end, this.grain);
      if (wholeStart < wholeEnd) await this.#zeroWhole(wholeStart, wholeEnd);
    });
  }

  populate(offset: number, data: Uint8Array): Promise<number> {
    return this.#populating(offset, data.length, async () => (await this.#writer.place(offset, data, true)).bytes);
  }

  populateZeroes(offset: number, length: number): Promise<number> {
    const end = roundUp(offset + length, this.grain);
    return this.#populating(offset, length, async () => (await this.#zeroer.zero(offset, end, true)).bytes);
  }

  /** @param act returns how many bytes became local, in whole grains */
  async #populating(offset: number, length: number, act: () => Promise<number>): Promise<number> {
    this.#validateGrain("populate", offset, length);
    const reference = this.#backingReference;
    const end = offset + length;
    const cut = roundUp(end, this.grain) - end;
    return this.#changing("populate", offset, length, async () => {
      let bytes = 0;
      await this.#exclusively(offset, length, async () => {
        // What was fetched by a link that is broken now is not what is missing.
        if (this.#backingReference !== reference) return false;
        const cutMissing = cut > 0 && (await this.#reader.extents(end - 1, 1))[0]?.kind === "missing";
        bytes = await act();
        if (cutMissing && bytes > 0) bytes -= cut;
        return false;
      });
      return bytes;
    });
  }

  async flush(): Promise<void> {
    this.#validate("flush", 0, 0);
    if (this.readOnly) return;
    await this.#checkpoints.run(true);
  }

  async checkpoint(): Promise<void> {
    this.#validate("flush", 0, 0);
    if (!this.readOnly) await this.#checkpoints.run(false);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#validate("map", offset, length);
    return this.#reader.extents(offset, length);
  }

  async resize(length: number): Promise<void> {
    if (length !== this.#length) this.#options.header.allowResize();
    await this.#changing("resize", 0, 0, async () => {
      const handle = await this.#lock.acquire(0, Number.POSITIVE_INFINITY);
      try {
        if (length > this.#length) await grow(this.#resizing, length);
        else if (length < this.#length) await shrink(this.#resizing, length);
      } finally {
        this.#lock.release(handle);
      }
    });
  }

  async changeBacking(reference: BackingReference | undefined, node: BlockNode | undefined): Promise<void> {
    await this.#changing("change the backing file of", 0, 0, async () => {
      await this.#checkpoints.run(true);
      await this.#checkpoints.alone(() => this.#options.header.setBacking(reference));
      this.#backingReference = reference;
      this.#backing = node;
    });
  }

  describe(): FormatDetails {
    return this.#options.header.describe();
  }

  async check(options: CheckOptions = {}): Promise<CheckResult> {
    if (options.repair !== undefined) validateWritable(this, "repair");
    if (!this.readOnly) await this.#checkpoints.settle();
    const result = await this.#options.header.check(options);
    if (options.repair !== undefined) await this.#checkpoints.run(true);
    return result;
  }

  /** Applies what an earlier process acknowledged and could not hand to the image (ADR 1), which is marked from now on. */
  async replay(records: readonly MappingRecord[]): Promise<void> {
    await this.#mark();
    await replay(this.#options, records);
    await this.#checkpoints.run(true);
    this.#options.log?.remove();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      if (this.#marking !== undefined) {
        const handle = await this.#lock.acquire(0, Number.POSITIVE_INFINITY);
        this.#lock.release(handle);
        await this.#marking;
        await this.#checkpoints.settle();
        if (!this.#checkpoints.leaky) await this.#options.header.markClean();
        this.#options.log?.remove();
      }
    } finally {
      await this.file.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Marks the header, once; if that fails, the next change tries again. */
  async #mark(): Promise<void> {
    this.#marking ??= this.#options.header.markDirty().catch((error: unknown) => {
      this.#marking = undefined;
      throw error;
    });
    await this.#marking;
  }

  /** Runs a change under its ticket, after the mark in the header. */
  async #changing<T>(operation: string, offset: number, length: number, act: () => Promise<T>): Promise<T> {
    this.#validate(operation, offset, length);
    validateWritable(this, operation);
    const { activity } = this.#checkpoints;
    const ticket = activity.begin();
    try {
      await this.#mark();
      return await act();
    } finally {
      activity.end(ticket);
    }
  }

  /**
   * Changes the mapping under its lock.
   * @param act says whether what it did must be handed to the kernel before it counts as done
   */
  async #exclusively(offset: number, length: number, act: () => Promise<boolean>): Promise<void> {
    const taken = this.#lock.acquire(...this.#clusters(offset, length));
    const handle: RangeLockHandle = taken instanceof Promise ? await taken : taken;
    let mustCheckpoint: boolean;
    try {
      mustCheckpoint = await act();
    } finally {
      this.#lock.release(handle);
    }
    if (mustCheckpoint) await this.#checkpoints.run(false);
  }

  #anyUnlogged(offset: number, length: number): boolean {
    const [first, end] = this.#clusters(offset, length);
    for (let cluster = first; cluster < end; cluster++) if (this.#checkpoints.isUnlogged(cluster)) return true;
    return false;
  }

  #clusters(offset: number, length: number): [start: number, end: number] {
    return [Math.floor(offset / this.clusterSize), Math.ceil((offset + length) / this.clusterSize)];
  }

  #validate(operation: string, offset: number, length: number): void {
    validateOpen(this, operation, this.#closing !== undefined);
    validateRange(this, operation, offset, length);
  }

  #validateGrain(operation: string, offset: number, length: number): void {
    const end = offset + length;
    if (offset % this.grain === 0 && (end % this.grain === 0 || end === this.#length)) return;
    throw new StreamdiskError(
      "invalid-argument",
      `Could not ${operation} ${length} bytes at ${offset} of '${this.name}': it takes whole units of ${this.grain} bytes`,
      { node: this.name, operation, offset, length },
    );
  }
}
