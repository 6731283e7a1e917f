/**
 * qcow2's reference counts, and the allocator that they make (QEMU docs/interop/qcow2, "Reference counting").
 *
 * The refcount table is an array of host offsets of refcount blocks; a block counts the references to the clusters of one region of
 * the file. Whatever has no block is free.
 *
 * On disk the counts are never behind the mapping (ADR 1): increments are written before the mapping that needs them,
 * decrements (`release`) are asked for only after the change that allows them is durable. A new block is written before the table
 * entry that points at it, a new table before the header that does; both before any mapping that they protect.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { AllocatorSnapshot, ClusterAllocator, HostRun, MetadataWrite } from "../mapped/allocator.ts";
import { roundUp } from "../mapped/geometry.ts";
import type { HostMap } from "../mapped/host-map.ts";
import { repeatedOffsets } from "../mapped/references.ts";
import { getUint64, viewOf } from "./big-endian.ts";
import { RefcountBlock } from "./refcount-block.ts";
import { RefcountTable, type TablePlace } from "./refcount-table.ts";

const CACHE_BYTES = 16 * 1024 * 1024;
/** As in QEMU. */
const MOST_TABLE_BYTES = 8 * 1024 * 1024;
/** Holes smaller than this are not worth a system call. */
const LEAST_HOLE = 4096;

/** Host offsets of all blocks that a refcount table points to. */
export function blockOffsets(table: Uint8Array): Float64Array {
  const view = viewOf(table);
  const offsets = new Float64Array(table.length / 8);
  for (let region = 0; region < offsets.length; region++) offsets[region] = getUint64(view, region * 8);
  return offsets.filter((host) => host !== 0);
}

export interface RefcountsOptions {
  readonly file: BlockNode;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly hostMap: HostMap;
  /** The refcount table as on disk. */
  readonly table: Uint8Array;
  readonly tableOffset: number;
  /** The table lies elsewhere now, and the header on disk says so. */
  readonly onTableMoved: (offset: number, clusters: number) => void;
}

export class Refcounts implements ClusterAllocator {
  readonly reclaims = true;
  readonly #options: RefcountsOptions;
  readonly #perBlock: number;
  readonly #cache = new Map<number, RefcountBlock>();
  readonly #dirty = new Set<RefcountBlock>();
  readonly #table: RefcountTable;
  /** No free cluster lies below. */
  #hint = 0;
  #queue: Promise<unknown> = Promise.resolve();
  /** The counts are known to be wrong: what else they say is free may be somebody's data, so that nothing is allocated any more. */
  #damage: StreamdiskError | undefined;
  /** Offsets that several regions have for their block. */
  readonly #repeated: ReadonlyMap<number, number>;

  constructor(options: RefcountsOptions) {
    this.#options = options;
    this.#perBlock = (options.clusterSize * 8) / options.refcountBits;
    this.#table = new RefcountTable(options.table, options.tableOffset, options.clusterSize);
    this.#repeated = repeatedOffsets(blockOffsets(options.table));
  }

  get dirty(): boolean {
    return this.#dirty.size > 0 || this.#table.dirty;
  }

  get table(): TablePlace {
    return this.#table.place;
  }

  /** Regions that the table can speak of. */
  get regions(): number {
    return this.#table.regions;
  }

  get clustersPerRegion(): number {
    return this.#perBlock;
  }

  /** Host offset of a region's block; 0: none. */
  blockHost(region: number): number {
    return this.#table.blockHost(region);
  }

  /** Whether a region's block can be read: it lies in the file, and is that of no other region. */
  blockIsSound(region: number): boolean {
    if (this.#cache.has(region)) return true;
    const { file, clusterSize } = this.#options;
    const host = this.blockHost(region);
    const placed = host !== 0 && host % clusterSize === 0 && host + clusterSize <= file.length;
    return placed && !this.#repeated.has(host);
  }

  /** Whether the count of a cluster can be read; otherwise it is 0. */
  isCounted(cluster: number): boolean {
    return this.blockIsSound(Math.floor(cluster / this.#perBlock));
  }

  /** The references to a cluster. */
  async get(cluster: number): Promise<number> {
    const region = Math.floor(cluster / this.#perBlock);
    if (this.blockHost(region) === 0) return 0;
    return (await this.#block(region)).get(cluster % this.#perBlock);
  }

  /** One caller at a time: an allocation may have to load blocks between the look and the taking. */
  #alone<T>(act: () => Promise<T>): Promise<T> {
    const done = this.#queue.then(act);
    this.#queue = done.catch(() => {});
    return done;
  }

  allocate(least: number, most: number): Promise<HostRun> {
    return this.#alone(() => this.#allocate(least, most));
  }

  /**
   * Takes clusters one by one as it finds them, so that a block or a larger table that has to be made on the way finds its
   * own place elsewhere.
   */
  async #allocate(least: number, most: number): Promise<HostRun> {
    if (this.#damage !== undefined) throw this.#damage;
    let start = this.#hint;
    let count = 0;
    let skipped: number | undefined;
    try {
      while (count < most) {
        const cluster = start + count;
        const region = Math.floor(cluster / this.#perBlock);
        const block = this.#cache.get(region) ?? (await this.#block(region));
        if (block.get(cluster % this.#perBlock) === 0) {
          block.set(cluster % this.#perBlock, 1);
          this.#dirty.add(block);
          count++;
        } else if (count >= least) break;
        else {
          if (count > 0) skipped ??= start;
          await this.#untake(start, count);
          start = cluster + 1;
          count = 0;
        }
      }
    } catch (error) {
      if (count < least) {
        await this.#untake(start, count);
        throw error;
      }
    }
    this.#hint = skipped ?? start + count;
    const { clusterSize, hostMap, file } = this.#options;
    const host = start * clusterSize;
    const hit = hostMap.hit(host, host + count * clusterSize);
    if (hit === undefined) return { host, count };
    this.#damage = new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged: its reference counts say that ${host} is free, but ${hit} lies there; run check`,
      { node: file.name, offset: host, length: count * clusterSize },
    );
    throw this.#damage;
  }

  async #untake(start: number, count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.#set(start + i, 0);
  }

  async #set(cluster: number, count: number): Promise<void> {
    const block = await this.#block(Math.floor(cluster / this.#perBlock));
    block.set(cluster % this.#perBlock, count);
    this.#dirty.add(block);
  }

  release(host: number, length: number): Promise<void> {
    return this.#alone(async () => {
      const { clusterSize } = this.#options;
      const last = Math.floor((host + length - 1) / clusterSize);
      let holeStart = -1;
      for (let cluster = Math.floor(host / clusterSize); cluster <= last; cluster++) {
        const count = await this.get(cluster);
        // A count of 0 was wrong before: `check` says so, and one less would make it worse.
        if (count > 0) await this.#set(cluster, count - 1);
        if (count !== 1) {
          await this.#punch(holeStart, cluster);
          holeStart = -1;
          continue;
        }
        if (holeStart < 0) holeStart = cluster;
        if (cluster < this.#hint) this.#hint = cluster;
      }
      await this.#punch(holeStart, last + 1);
    });
  }

  /** Gives the space of free clusters back to the file system. */
  async #punch(from: number, to: number): Promise<void> {
    const { file, clusterSize } = this.#options;
    const start = from * clusterSize;
    const end = Math.min(to * clusterSize, file.length);
    if (from >= 0 && end - start >= LEAST_HOLE) await file.discard(start, end - start);
  }

  async #block(region: number): Promise<RefcountBlock> {
    const cached = this.#cache.get(region);
    if (cached !== undefined) return cached;
    const { file, clusterSize, refcountBits } = this.#options;
    const host = this.blockHost(region);
    if (host === 0) return this.#create(region);
    if (!this.blockIsSound(region)) {
      throw new StreamdiskError(
        "invalid-image",
        `Image '${file.name}' is damaged or truncated: its refcount block ${region} at ${host} is not in the file of ${file.length} bytes, or that of another region too`,
        { node: file.name, offset: host, length: clusterSize },
      );
    }
    const bytes = new Uint8Array(clusterSize);
    await file.read(host, bytes);
    const block = new RefcountBlock(region, host, bytes, refcountBits, false);
    this.#insert(block);
    return block;
  }

  #insert(block: RefcountBlock): void {
    this.#cache.set(block.index, block);
    const most = Math.max(4, Math.floor(CACHE_BYTES / this.#options.clusterSize));
    if (this.#cache.size <= most) return;
    for (const candidate of this.#cache.values()) {
      if (candidate.dirty || candidate.pins > 0 || candidate === block) continue;
      this.#cache.delete(candidate.index);
      return;
    }
  }

  /** Makes the block of a region that has none. */
  async #create(region: number): Promise<RefcountBlock> {
    if (region >= this.regions) await this.#growTable(region + 1);
    const cluster = await this.#placeForBlock(region);
    // What had to be made on the way may have needed it.
    const made = this.#cache.get(region);
    if (made !== undefined) return made;
    const { clusterSize, refcountBits, hostMap } = this.#options;
    const host = cluster * clusterSize;
    const block = new RefcountBlock(region, host, new Uint8Array(clusterSize), refcountBits, true);
    this.#cache.set(region, block);
    this.#dirty.add(block);
    hostMap.addTable(host, clusterSize);
    this.#table.setBlockHost(region, host);
    await this.#set(cluster, 1);
    return block;
  }

  /** A block lies in its own region, which it describes, unless something may lie there already: then past the end of the file. */
  async #placeForBlock(region: number): Promise<number> {
    const { file, clusterSize } = this.#options;
    const used = Math.ceil(file.length / clusterSize);
    if (region * this.#perBlock >= used) return region * this.#perBlock;
    for (let cluster = used; ; cluster++) {
      const there = Math.floor(cluster / this.#perBlock);
      if (there === region || (await this.#block(there)).get(cluster % this.#perBlock) === 0) return cluster;
    }
  }

  /** A larger table at another place. Blocks that its own clusters need are made on the way, in the larger table. */
  async #growTable(regions: number): Promise<void> {
    const { clusterSize, file, hostMap } = this.#options;
    const length = roundUp(Math.max(regions, Math.ceil(this.regions * 1.5)) * 8 + 8, clusterSize);
    if (length > MOST_TABLE_BYTES) {
      throw new StreamdiskError(
        "no-space",
        `Could not allocate in '${file.name}': its refcount table would need ${length} bytes, and ${MOST_TABLE_BYTES} is the limit; use larger clusters`,
        { node: file.name },
      );
    }
    const before = this.table.length;
    this.#table.lengthen(length);
    const clusters = length / clusterSize;
    let run: HostRun;
    try {
      run = await this.#allocate(clusters, clusters);
    } catch (error) {
      if (this.table.length === length) this.#ungrowTable(before);
      throw error;
    }
    // On the way it was made larger still, at a place of its own.
    if (this.table.length !== length) return this.#untake(run.host / clusterSize, clusters);
    const free = this.#table.settle(run.host, before);
    if (free !== undefined) await this.#untake(free.offset / clusterSize, free.length / clusterSize);
    hostMap.setArea("the refcount table", run.host, length);
  }

  /** Blocks that only the larger table could name are forgotten: nothing but the table was to lie in their regions. */
  #ungrowTable(length: number): void {
    this.#table.shorten(length);
    for (const [region, block] of this.#cache) {
      if (region < this.regions) continue;
      this.#cache.delete(region);
      this.#dirty.delete(block);
    }
  }

  snapshot(): AllocatorSnapshot {
    const blocks: MetadataWrite[] = [];
    const held = [...this.#dirty];
    const undo: (() => void)[] = [];
    for (const block of held) {
      block.pins++;
      const { isNew, dirtyFrom, dirtyTo } = block;
      const from = isNew ? 0 : dirtyFrom;
      const to = isNew ? block.bytes.length : dirtyTo;
      blocks.push({ offset: block.host + from, bytes: block.bytes.slice(from, to) });
      block.isNew = false;
      block.dirtyFrom = Number.POSITIVE_INFINITY;
      block.dirtyTo = 0;
      undo.push(() => {
        block.isNew ||= isNew;
        block.touch(dirtyFrom, dirtyTo);
        this.#dirty.add(block);
      });
    }
    this.#dirty.clear();
    const table = this.#table.snapshot();
    const { offset, length } = this.table;
    const unpin = () => {
      for (const block of held) block.pins--;
    };
    return {
      blocks: [...blocks, ...table.content],
      roots: table.roots,
      done: () => {
        unpin();
        if (table.moved === undefined) return;
        // The header that points at the new table is durable: the old one is free.
        this.#options.onTableMoved(offset, length / this.#options.clusterSize);
        // If that fails they are leaked, and `check` finds them.
        this.release(table.moved.offset, table.moved.length).catch(() => {});
      },
      undo: () => {
        unpin();
        for (const step of undo) step();
        table.undo();
      },
    };
  }

  /** Visits the counts of those of the clusters [0, clusters) that are counted. */
  async each(clusters: number, visit: (cluster: number, count: number) => void): Promise<void> {
    const regions = Math.min(this.regions, Math.ceil(clusters / this.#perBlock));
    for (let region = 0; region < regions; region++) {
      if (!this.blockIsSound(region)) continue;
      const block = await this.#block(region);
      const first = region * this.#perBlock;
      const last = Math.min(this.#perBlock, clusters - first);
      for (let at = 0; at < last; at++) visit(first + at, block.get(at));
    }
  }

  /**
   * Visits what is counted from cluster `end` on: the file may have lost its end. Each block is looked at once, so that a table that
   * names one over and over costs no more than the file has.
   */
  async eachFrom(end: number, visit: (cluster: number) => void): Promise<void> {
    const hosts = new Set<number>();
    for (let region = Math.floor(end / this.#perBlock); region < this.regions; region++) {
      const host = this.blockHost(region);
      if (!this.blockIsSound(region) || hosts.has(host)) continue;
      hosts.add(host);
      const block = await this.#block(region);
      const first = region * this.#perBlock;
      for (let at = Math.max(0, end - first); at < this.#perBlock; at++) if (block.get(at) > 0) visit(first + at);
    }
  }

  /** Nothing below is handed out: for a repair, as long as the counts there may be too low. */
  keepFrom(cluster: number): void {
    this.#hint = cluster;
  }

  /** Sets the count of one cluster: for a repair, while nothing else goes on. */
  async correct(cluster: number, count: number): Promise<void> {
    const { refcountBits, clusterSize, file } = this.#options;
    if (count >= 2 ** refcountBits) {
      throw new StreamdiskError(
        "invalid-image",
        `Could not repair '${file.name}': the cluster at ${cluster * clusterSize} has ${count} references, more than a count of ${refcountBits} bits can say`,
        { node: file.name, offset: cluster * clusterSize, length: clusterSize },
      );
    }
    await this.#alone(() => this.#set(cluster, count));
    if (count === 0 && cluster < this.#hint) this.#hint = cluster;
  }
}
