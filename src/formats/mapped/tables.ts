/**
 * The two levels of the mapping in memory: the L1 table, and a cache of slices of L2 tables, in the bytes of the disk.
 *
 * Invariants (ADR 1):
 * - An entry is set here only after the data that it points at has been written to the file.
 * - What is set here reaches the file through `snapshot` alone, which a checkpoint calls. Only a new table is written at once,
 *   empty or as a copy: nothing refers to it before the checkpoint.
 * - A slice that is dirty or pinned stays in memory; any other may be dropped and loaded again.
 * - A table is changed only when its L1 entry owns it; one that a snapshot of the image shares is copied first (`forWrite`).
 */
import { type BlockNode, letGo } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { ClusterAllocator, MetadataWrite } from "./allocator.ts";
import type { ClusterEntry, MappingCodec, TableEntry } from "./codec.ts";
import { type Geometry, roundDown, roundUp } from "./geometry.ts";
import type { HostMap } from "./host-map.ts";
import type { MappingRecord } from "./mapping-log.ts";

const CACHE_BYTES = 16 * 1024 * 1024;

/** A slice of an L2 table in memory. Slices are numbered through all tables, present or not. */
export class L2Slice {
  readonly index: number;
  /** Where its first byte lies in the file. */
  readonly host: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly #words: Int32Array;
  dirtyFrom = Number.POSITIVE_INFINITY;
  dirtyTo = 0;
  /** Requests that hold it between a look and a change, and checkpoints that are writing it. */
  pins = 0;
  used = true;
  /** Nothing else lies where its table lies: it may be written. */
  isAlone = false;

  constructor(index: number, host: number, bytes: Uint8Array) {
    this.index = index;
    this.host = host;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }

  /** Steps from byte `from` over words of 4 bytes that are zero, as far as `to`; both are multiples of 4. */
  skipZeroes(from: number, to: number): number {
    const words = this.#words;
    const end = to / 4;
    let at = from / 4;
    while (at < end && words[at] === 0) at++;
    return at * 4;
  }

  touch(from: number, to: number): void {
    if (from < this.dirtyFrom) this.dirtyFrom = from;
    if (to > this.dirtyTo) this.dirtyTo = to;
  }
}

/** What a checkpoint has to write of the mapping. */
export interface TablesSnapshot {
  /** Entries of L2 and L1 tables: to be written after the flush. */
  readonly entries: readonly MetadataWrite[];
  /** What these changes took the last use from. */
  readonly freed: readonly HostRange[];
  /** All of it has reached the file: the slices may be dropped again. */
  done(): void;
  /** It has not: all of it is dirty again. */
  undo(): void;
}

/** A stretch of the image file. */
export interface HostRange {
  readonly host: number;
  readonly length: number;
}

export interface MappingTablesOptions {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly allocator: ClusterAllocator;
  readonly hostMap: HostMap;
  readonly l1: Uint8Array;
  readonly l1Offset: number;
}

export class MappingTables {
  readonly #options: MappingTablesOptions;
  readonly #slicesPerTable: number;
  readonly #cache = new Map<number, L2Slice>();
  /** So many slices stay in memory, as long as no more are dirty or pinned. */
  readonly #most: number;
  #dropping = false;
  readonly #dirty = new Set<L2Slice>();
  readonly #loading = new Map<number, Promise<L2Slice | null>>();
  readonly #preparing = new Map<number, Promise<void>>();
  readonly #patches = new Map<number, MappingRecord[]>();
  readonly #entry: TableEntry = { host: 0, owned: false };
  #freed: HostRange[] = [];
  #l1: Uint8Array;
  #l1View: DataView;
  #l1Offset: number;
  #l1DirtyFrom = Number.POSITIVE_INFINITY;
  #l1DirtyTo = 0;

  constructor(options: MappingTablesOptions) {
    this.#options = options;
    this.#most = CACHE_BYTES / options.geometry.sliceBytes;
    this.#slicesPerTable = options.geometry.tableBytes / options.geometry.sliceBytes;
    this.#l1 = options.l1;
    this.#l1View = new DataView(options.l1.buffer, options.l1.byteOffset, options.l1.byteLength);
    this.#l1Offset = options.l1Offset;
  }

  /** Guest bytes that the L1 table can speak of. */
  get capacity(): number {
    return (this.#l1.length / 8) * this.#options.geometry.tableSpan;
  }

  get dirty(): boolean {
    return this.#dirty.size > 0 || this.#l1DirtyTo > 0 || this.#freed.length > 0;
  }

  /** Whether so much is dirty that a checkpoint must come before more. */
  get crowded(): boolean {
    return this.#dirty.size * this.#options.geometry.sliceBytes > CACHE_BYTES / 2;
  }

  /** Decodes the L1 entry of the table that a slice belongs to. */
  #table(index: number): TableEntry {
    this.#options.codec.decodeL1(this.#l1View, Math.floor(index / this.#slicesPerTable), this.#entry);
    return this.#entry;
  }

  /** Whether there is a table at all, without loading it. */
  has(index: number): boolean {
    return this.#patches.has(index) || this.#table(index).host !== 0;
  }

  /** The slice when it is in memory; null when there is none; undefined when it must be loaded. */
  peek(index: number): L2Slice | null | undefined {
    const slice = this.#cache.get(index);
    if (slice !== undefined) {
      slice.used = true;
      return slice;
    }
    return this.has(index) ? undefined : null;
  }

  /** Loads a slice, once however many ask. */
  load(index: number): Promise<L2Slice | null> {
    let loading = this.#loading.get(index);
    if (loading === undefined) {
      loading = this.#read(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    return loading;
  }

  async #read(index: number): Promise<L2Slice | null> {
    const { codec, geometry, file } = this.#options;
    const table = this.#table(index).host;
    const patches = this.#patches.get(index);
    if (table === 0 && patches === undefined) return null;
    const bytes = new Uint8Array(geometry.sliceBytes);
    const host = table + (index % this.#slicesPerTable) * geometry.sliceBytes;
    if (table !== 0) {
      if (table + geometry.tableBytes > file.length) throw this.#outside(table);
      await file.read(host, bytes);
      // The table has been copied meanwhile: what was read belongs to a snapshot.
      if (this.#table(index).host !== table) return this.#read(index);
    }
    for (const { cluster, entry } of patches ?? []) {
      bytes.set(entry, (cluster % geometry.sliceEntries) * codec.entryBytes);
    }
    const slice = new L2Slice(index, host, bytes);
    this.#insert(slice);
    return slice;
  }

  #outside(host: number): StreamdiskError {
    const { file, geometry } = this.#options;
    return new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged or truncated: its L2 table at ${host} (${geometry.tableBytes} bytes) ends past the end of the file at ${file.length}`,
      { node: file.name, offset: host, length: geometry.tableBytes },
    );
  }

  /** The slice, ready to be changed: its table is allocated if there was none, and copied if it is shared. */
  forWrite(index: number): Promise<L2Slice> | L2Slice {
    const slice = this.#cache.get(index);
    if (slice?.isAlone && this.#table(index).owned) {
      slice.used = true;
      return slice;
    }
    return this.#ready(index);
  }

  async #ready(index: number): Promise<L2Slice> {
    const l1Index = Math.floor(index / this.#slicesPerTable);
    while (this.#table(index).host === 0 || !this.#table(index).owned) {
      let preparing = this.#preparing.get(l1Index);
      if (preparing === undefined) {
        preparing = this.#newTable(l1Index).finally(() => this.#preparing.delete(l1Index));
        this.#preparing.set(l1Index, preparing);
      }
      await preparing;
    }
    const slice = this.peek(index) ?? (await this.load(index));
    if (slice === null) throw new Error(`slice ${index} of a table that was just made is not there`);
    this.#demandAlone(slice);
    return slice;
  }

  #demandAlone(slice: L2Slice): void {
    const { hostMap, file, geometry } = this.#options;
    const { host } = this.#table(slice.index);
    const beside = hostMap.besideTable(host);
    slice.isAlone = beside === undefined;
    if (slice.isAlone) return;
    throw new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged: its L2 table at ${host} would be changed, but ${beside} lies there; nothing was written (try 'qemu-img check')`,
      { node: file.name, operation: "write", offset: host, length: geometry.tableBytes },
    );
  }

  /**
   * Makes a table of our own: empty, or a copy of one that is shared. It is written at once, since nothing refers to it before
   * the L1 entry does, which goes with a checkpoint, after a flush.
   */
  async #newTable(l1Index: number): Promise<void> {
    const { codec, geometry, allocator, hostMap, file } = this.#options;
    const old = this.#table(l1Index * this.#slicesPerTable).host;
    const clusters = geometry.tableBytes / geometry.clusterSize;
    const { host } = await allocator.allocate(clusters, clusters);
    try {
      if (old === 0) await file.writeZeroes(host, geometry.tableBytes);
      else await this.#copyTable(old, host);
    } catch (error) {
      await allocator.release(host, geometry.tableBytes);
      throw error;
    }
    hostMap.addTable(host, geometry.tableBytes);
    for (let index = l1Index * this.#slicesPerTable; index < (l1Index + 1) * this.#slicesPerTable; index++) {
      this.#cache.delete(index);
    }
    codec.encodeL1(this.#l1View, l1Index, { host, owned: true });
    this.#touchL1(l1Index * 8, l1Index * 8 + 8);
    if (old !== 0 && hostMap.besideTable(old) === undefined) this.#noteFreed(old, geometry.tableBytes);
  }

  async #copyTable(from: number, to: number): Promise<void> {
    const { geometry, file } = this.#options;
    if (from + geometry.tableBytes > file.length) throw this.#outside(from);
    const bytes = new Uint8Array(geometry.sliceBytes);
    for (let at = 0; at < geometry.tableBytes; at += bytes.length) {
      await file.read(from + at, bytes);
      await file.write(to + at, bytes);
    }
  }

  #touchL1(from: number, to: number): void {
    this.#l1DirtyFrom = Math.min(this.#l1DirtyFrom, from);
    this.#l1DirtyTo = Math.max(this.#l1DirtyTo, to);
  }

  /** Changes one entry of a slice that came from `forWrite`. */
  set(slice: L2Slice, at: number, entry: ClusterEntry): void {
    this.#options.codec.encode(slice.view, at, entry);
    this.touch(slice, at);
  }

  /** The bytes of one entry changed: it goes into the next checkpoint. */
  touch(slice: L2Slice, at: number): void {
    const { entryBytes } = this.#options.codec;
    slice.touch(at * entryBytes, (at + 1) * entryBytes);
    this.#dirty.add(slice);
  }

  /** Something on disk lost a reference that its mapping held until now. What is metadata besides, in a damaged image, stays. */
  free(host: number, length: number): void {
    const { clusterSize } = this.#options.geometry;
    const hit = this.#options.hostMap.hit(roundDown(host, clusterSize), roundUp(host + length, clusterSize));
    if (hit === undefined) this.#noteFreed(host, length);
  }

  #noteFreed(host: number, length: number): void {
    const last = this.#freed.at(-1);
    // Not within a cluster: two compressed ones that touch there have a reference each.
    const joins = host % this.#options.geometry.clusterSize === 0;
    if (joins && last !== undefined && last.host + last.length === host) {
      this.#freed[this.#freed.length - 1] = { host: last.host, length: last.length + length };
    } else this.#freed.push({ host, length });
  }

  /** Drops every slice from memory: the file has been changed by a repair. Nothing may be dirty or in use. */
  forget(): void {
    this.#cache.clear();
  }

  /** Lays logged mappings over what the file says, in memory only. */
  patch(records: readonly MappingRecord[]): void {
    for (const record of records) {
      const index = Math.floor(record.cluster / this.#options.geometry.sliceEntries);
      const list = this.#patches.get(index);
      if (list === undefined) this.#patches.set(index, [record]);
      else list.push(record);
    }
  }

  #insert(slice: L2Slice): void {
    this.#cache.set(slice.index, slice);
    if (this.#cache.size <= this.#most || this.#dropping) return;
    this.#dropping = true;
    // In a turn of its own: whoever waits for a slice has looked at it by then, or pinned it.
    setImmediate(() => {
      this.#dropping = false;
      this.#dropSome();
    });
  }

  #dropSome(): void {
    // Those used since the last look are passed over once.
    for (let look = 0; look < 2; look++) {
      for (const candidate of this.#cache.values()) {
        if (this.#cache.size <= this.#most) return;
        if (candidate.dirtyTo > 0 || candidate.pins > 0) continue;
        if (candidate.used) {
          candidate.used = false;
          continue;
        }
        this.#cache.delete(candidate.index);
        letGo(candidate.bytes);
      }
    }
  }

  /** Takes what is dirty; it counts as clean then. End it with `done` or `undo`. */
  snapshot(): TablesSnapshot {
    const entries: MetadataWrite[] = [];
    const held = [...this.#dirty];
    const undo: (() => void)[] = [];
    for (const slice of held) {
      slice.pins++;
      const { dirtyFrom, dirtyTo, host } = slice;
      entries.push({ offset: host + dirtyFrom, bytes: slice.bytes.slice(dirtyFrom, dirtyTo) });
      slice.dirtyFrom = Number.POSITIVE_INFINITY;
      slice.dirtyTo = 0;
      undo.push(() => {
        slice.touch(dirtyFrom, dirtyTo);
        this.#dirty.add(slice);
      });
    }
    this.#dirty.clear();
    if (this.#l1DirtyTo > 0) {
      const from = this.#l1DirtyFrom;
      const to = this.#l1DirtyTo;
      entries.push({ offset: this.#l1Offset + from, bytes: this.#l1.slice(from, to) });
      this.#l1DirtyFrom = Number.POSITIVE_INFINITY;
      this.#l1DirtyTo = 0;
      undo.push(() => this.#touchL1(from, to));
    }
    const freed = this.#freed;
    this.#freed = [];
    const done = () => {
      for (const slice of held) slice.pins--;
    };
    return {
      entries,
      freed,
      done,
      undo: () => {
        done();
        for (const step of undo) step();
        this.#freed = [...freed, ...this.#freed];
      },
    };
  }

  /** The L1 table as it is, for one that must move (nothing may be dirty). */
  get l1(): { readonly bytes: Uint8Array; readonly offset: number } {
    return { bytes: this.#l1, offset: this.#l1Offset };
  }

  /** The L1 table lies elsewhere now, or is longer. */
  moveL1(bytes: Uint8Array, offset: number): void {
    this.#l1 = bytes;
    this.#l1View = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#l1Offset = offset;
  }
}
