/**
 * The two levels of the mapping in memory: the whole L1 table, and a cache of L2 tables in the bytes of the disk.
 *
 * Invariants (ADR 1):
 * - An entry is set here only after the data that it points at has been written to the file.
 * - What is set here reaches the file through `snapshot` alone, which a checkpoint calls.
 * - A table that is new, dirty or pinned stays in memory; any other may be dropped and loaded again.
 * - A table is changed only when its L1 entry owns it; one that a snapshot of the image shares is copied first (`forWrite`).
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { ClusterAllocator, MetadataWrite } from "./allocator.ts";
import type { ClusterEntry, MappingCodec, TableEntry } from "./codec.ts";
import type { Geometry } from "./geometry.ts";
import type { HostMap } from "./host-map.ts";
import type { MappingRecord } from "./mapping-log.ts";

const CACHE_BYTES = 32 * 1024 * 1024;

/** An L2 table in memory. */
export class L2Table {
  readonly l1Index: number;
  readonly host: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Nothing on disk refers to it yet: it is written whole, before the flush of a checkpoint. */
  isNew: boolean;
  dirtyFrom = Number.POSITIVE_INFINITY;
  dirtyTo = 0;
  /** Requests that hold it between a look and a change, and checkpoints that are writing it. */
  pins = 0;
  used = true;

  constructor(l1Index: number, host: number, bytes: Uint8Array, isNew: boolean) {
    this.l1Index = l1Index;
    this.host = host;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.isNew = isNew;
  }

  get dirty(): boolean {
    return this.isNew || this.dirtyTo > 0;
  }

  touch(from: number, to: number): void {
    if (from < this.dirtyFrom) this.dirtyFrom = from;
    if (to > this.dirtyTo) this.dirtyTo = to;
  }
}

/** What a checkpoint has to write of the mapping. */
export interface TablesSnapshot {
  /** New tables, whole: before the flush. */
  readonly tables: readonly MetadataWrite[];
  /** Entries of tables that are reachable, and of L1: after the flush. */
  readonly entries: readonly MetadataWrite[];
  /** What these changes took the last use from. */
  readonly freed: readonly HostRange[];
  /** All of it has reached the file: the tables may be dropped again. */
  done(): void;
  /** It has not: all of it is dirty again. */
  undo(): void;
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

/** A stretch of the image file. */
export interface HostRange {
  readonly host: number;
  readonly length: number;
}

export class MappingTables {
  readonly #options: MappingTablesOptions;
  readonly #cache = new Map<number, L2Table>();
  readonly #dirty = new Set<L2Table>();
  readonly #loading = new Map<number, Promise<L2Table | null>>();
  readonly #preparing = new Map<number, Promise<L2Table>>();
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

  get dirtyBytes(): number {
    return this.#dirty.size * this.#options.geometry.tableBytes;
  }

  /** Whether so much is dirty that a checkpoint must come before more. */
  get crowded(): boolean {
    return this.dirtyBytes > CACHE_BYTES / 2 && this.#dirty.size > 2;
  }

  /** Whether there is a table at all, without loading it. */
  has(l1Index: number): boolean {
    if (this.#patches.has(l1Index)) return true;
    this.#options.codec.decodeL1(this.#l1View, l1Index, this.#entry);
    return this.#entry.host !== 0;
  }

  /** The table when it is in memory; null when there is none; undefined when it must be loaded. */
  peek(l1Index: number): L2Table | null | undefined {
    const table = this.#cache.get(l1Index);
    if (table !== undefined) {
      table.used = true;
      return table;
    }
    return this.has(l1Index) ? undefined : null;
  }

  /** Loads the table, once however many ask. */
  load(l1Index: number): Promise<L2Table | null> {
    let loading = this.#loading.get(l1Index);
    if (loading === undefined) {
      loading = this.#read(l1Index).finally(() => this.#loading.delete(l1Index));
      this.#loading.set(l1Index, loading);
    }
    return loading;
  }

  async #read(l1Index: number): Promise<L2Table | null> {
    const { codec, geometry, file } = this.#options;
    codec.decodeL1(this.#l1View, l1Index, this.#entry);
    const { host } = this.#entry;
    const patches = this.#patches.get(l1Index);
    if (host === 0 && patches === undefined) return null;
    const bytes = new Uint8Array(geometry.tableBytes);
    if (host !== 0) {
      if (host + bytes.length > file.length) throw this.#outside("L2 table", host, bytes.length);
      await file.read(host, bytes);
    }
    const table = new L2Table(l1Index, host, bytes, false);
    for (const { cluster, entry } of patches ?? []) {
      bytes.set(entry, (cluster % geometry.tableEntries) * codec.entryBytes);
    }
    this.#insert(table);
    return table;
  }

  #outside(what: string, host: number, length: number): StreamdiskError {
    const { name } = this.#options.file;
    return new StreamdiskError(
      "invalid-image",
      `Image '${name}' is damaged or truncated: its ${what} at ${host} (${length} bytes) ends past the end of the file at ${this.#options.file.length}`,
      { node: name, offset: host, length },
    );
  }

  /** The table, ready to be changed: allocated if there was none, copied if it is shared. */
  forWrite(l1Index: number): Promise<L2Table> | L2Table {
    const table = this.#cache.get(l1Index);
    const preparing = this.#preparing.get(l1Index);
    if (preparing !== undefined) return preparing;
    this.#options.codec.decodeL1(this.#l1View, l1Index, this.#entry);
    if (table !== undefined && this.#entry.owned) {
      table.used = true;
      return table;
    }
    const promise = this.#prepare(l1Index).finally(() => this.#preparing.delete(l1Index));
    this.#preparing.set(l1Index, promise);
    return promise;
  }

  async #prepare(l1Index: number): Promise<L2Table> {
    const { codec, geometry, allocator, hostMap } = this.#options;
    const old = this.peek(l1Index) ?? (await this.load(l1Index));
    codec.decodeL1(this.#l1View, l1Index, this.#entry);
    if (old !== null && this.#entry.owned) return old;
    const sharedHost = this.#entry.host;
    const clusters = geometry.tableBytes / geometry.clusterSize;
    const run = await allocator.allocate(clusters, clusters);
    const bytes = old === null ? new Uint8Array(geometry.tableBytes) : Uint8Array.from(old.bytes);
    const table = new L2Table(l1Index, run.host, bytes, true);
    hostMap.addTable(run.host, geometry.tableBytes);
    this.#dirty.add(table);
    this.#insert(table);
    codec.encodeL1(this.#l1View, l1Index, { host: run.host, owned: true });
    this.#touchL1(l1Index * 8, l1Index * 8 + 8);
    if (sharedHost !== 0) this.free(sharedHost, geometry.tableBytes);
    return table;
  }

  #touchL1(from: number, to: number): void {
    this.#l1DirtyFrom = Math.min(this.#l1DirtyFrom, from);
    this.#l1DirtyTo = Math.max(this.#l1DirtyTo, to);
  }

  /** Changes one entry of a table that came from `forWrite`. */
  set(table: L2Table, index: number, entry: ClusterEntry): void {
    const { codec } = this.#options;
    codec.encode(table.view, index, entry);
    this.touch(table, index);
  }

  /** The bytes of one entry changed: it goes into the next checkpoint. */
  touch(table: L2Table, index: number): void {
    const { entryBytes } = this.#options.codec;
    table.touch(index * entryBytes, (index + 1) * entryBytes);
    this.#dirty.add(table);
  }

  /** Something on disk lost a reference that its mapping held until now. */
  free(host: number, length: number): void {
    const last = this.#freed.at(-1);
    if (last !== undefined && last.host + last.length === host) {
      this.#freed[this.#freed.length - 1] = { host: last.host, length: last.length + length };
    } else this.#freed.push({ host, length });
  }

  /** Drops every table from memory: the file has been changed by a repair. Nothing may be dirty or in use. */
  forget(): void {
    this.#cache.clear();
  }

  /** Lays logged mappings over what the file says, in memory only. */
  patch(records: readonly MappingRecord[]): void {
    for (const record of records) {
      const l1Index = Math.floor(record.cluster / this.#options.geometry.tableEntries);
      const list = this.#patches.get(l1Index);
      if (list === undefined) this.#patches.set(l1Index, [record]);
      else list.push(record);
    }
  }

  #insert(table: L2Table): void {
    this.#cache.set(table.l1Index, table);
    const most = Math.max(4, Math.floor(CACHE_BYTES / this.#options.geometry.tableBytes));
    if (this.#cache.size <= most) return;
    for (const candidate of this.#cache.values()) {
      if (candidate.dirty || candidate.pins > 0 || candidate === table) continue;
      if (candidate.used) {
        candidate.used = false;
        continue;
      }
      this.#cache.delete(candidate.l1Index);
      if (this.#cache.size <= most) return;
    }
  }

  /** Takes what is dirty; it counts as clean then. End it with `done` or `undo`. */
  snapshot(): TablesSnapshot {
    const tables: MetadataWrite[] = [];
    const entries: MetadataWrite[] = [];
    const held = [...this.#dirty];
    const undo: (() => void)[] = [];
    for (const table of held) {
      table.pins++;
      const { isNew, dirtyFrom, dirtyTo, host } = table;
      if (isNew) tables.push({ offset: host, bytes: table.bytes.slice() });
      else entries.push({ offset: host + dirtyFrom, bytes: table.bytes.slice(dirtyFrom, dirtyTo) });
      table.isNew = false;
      table.dirtyFrom = Number.POSITIVE_INFINITY;
      table.dirtyTo = 0;
      undo.push(() => {
        table.isNew = isNew;
        table.touch(dirtyFrom, dirtyTo);
        this.#dirty.add(table);
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
      for (const table of held) table.pins--;
    };
    return {
      tables,
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

  /** The L1 table lies elsewhere now, with `bytes`. */
  moveL1(bytes: Uint8Array, offset: number): void {
    this.#l1 = bytes;
    this.#l1View = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#l1Offset = offset;
  }
}
