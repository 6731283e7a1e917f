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
import type { AllocatorSnapshot, ClusterAllocator, HostRun } from "../mapped/allocator.ts";
import { roundUp } from "../mapped/geometry.ts";
import type { HostMap } from "../mapped/host-map.ts";
import { repeatedOffsets } from "../mapped/references.ts";
import { type CountedClusters, type FreeRun, findRun, placeBlocks } from "./free-clusters.ts";
import type { RefcountBlock } from "./refcount-block.ts";
import { RefcountBlocks } from "./refcount-blocks.ts";
import { blockOffsets, RefcountTable, type TablePlace } from "./refcount-table.ts";

/** As in QEMU. */
const MOST_TABLE_BYTES = 8 * 1024 * 1024;
/** Holes smaller than this are not worth a system call. */
const LEAST_HOLE = 4096;

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

/** What an allocation will take. */
interface Plan extends FreeRun {
  /** Blocks to be made: regions and clusters. */
  readonly blocks: ReadonlyMap<number, number>;
  /** Regions that the table must be able to speak of. */
  readonly regions: number;
}

export class Refcounts implements ClusterAllocator {
  readonly reclaims = true;
  readonly #options: RefcountsOptions;
  readonly #perBlock: number;
  readonly #blocks: RefcountBlocks;
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
    this.#blocks = new RefcountBlocks(options.file, options.clusterSize, options.refcountBits);
    this.#table = new RefcountTable(options.table, options.tableOffset, options.clusterSize);
    this.#repeated = repeatedOffsets(blockOffsets(options.table));
  }

  get dirty(): boolean {
    return this.#blocks.dirty || this.#table.dirty;
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

  /** Whether a region's block can be used: it lies in the file, and nothing else does in its place. */
  blockIsSound(region: number): boolean {
    if (this.#blocks.has(region)) return true;
    const { file, clusterSize } = this.#options;
    const host = this.blockHost(region);
    const placed = host !== 0 && host % clusterSize === 0 && host + clusterSize <= file.length;
    return placed && !this.#repeated.has(host) && this.#options.hostMap.besideTable(host) === undefined;
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

  async #allocate(least: number, most: number): Promise<HostRun> {
    let plan = await this.#plan(least, most);
    while (plan.regions > this.regions) {
      await this.#growTable(plan.regions);
      plan = await this.#plan(least, most);
    }
    await this.#take(plan);
    return { host: plan.start * this.#options.clusterSize, count: plan.count };
  }

  /** Finds a run and the places of the blocks that it needs; nothing is changed. */
  async #plan(least: number, most: number): Promise<Plan> {
    if (this.#damage !== undefined) throw this.#damage;
    const counts = this.#counts();
    const run = await findRun(counts, this.#hint, least, most);
    const end = run.start + run.count;
    const regions: number[] = [];
    for (let region = Math.floor(run.start / this.#perBlock); region * this.#perBlock < end; region++) {
      if (this.blockHost(region) === 0) regions.push(region);
    }
    const blocks = await placeBlocks(counts, regions, end);
    return this.#checked({ ...run, blocks });
  }

  /** The same for a block alone. */
  async #planBlock(region: number): Promise<Plan> {
    if (this.#damage !== undefined) throw this.#damage;
    const blocks = await placeBlocks(this.#counts(), [region], this.#hint);
    return this.#checked({ start: 0, count: 0, hint: this.#hint, blocks });
  }

  #counts(): CountedClusters {
    const { file, clusterSize } = this.#options;
    return {
      perBlock: this.#perBlock,
      regions: this.regions,
      unknownEnd: file.grows ? Math.ceil(file.length / clusterSize) : 0,
      hasBlock: (region) => this.blockHost(region) !== 0,
      block: (region) => this.#blocks.peek(region) ?? this.#block(region),
    };
  }

  /** Nothing known lies where the plan wants to go, and the file can have it. */
  #checked(plan: Omit<Plan, "regions">): Plan {
    let lastCluster = plan.start + plan.count - 1;
    this.#demandFree(plan.start, plan.count);
    for (const cluster of plan.blocks.values()) {
      this.#demandFree(cluster, 1);
      lastCluster = Math.max(lastCluster, cluster);
    }
    const { file, clusterSize } = this.#options;
    const end = (lastCluster + 1) * clusterSize;
    if (!Number.isSafeInteger(end) || (!file.grows && end > file.length)) {
      throw new StreamdiskError("no-space", `Could not allocate in '${file.name}': it has ${file.length} bytes`, {
        node: file.name,
      });
    }
    return { ...plan, regions: Math.max(Math.floor(lastCluster / this.#perBlock), ...plan.blocks.keys()) + 1 };
  }

  #demandFree(cluster: number, count: number): void {
    const { clusterSize, hostMap, file } = this.#options;
    const host = cluster * clusterSize;
    const hit = hostMap.hit(host, host + count * clusterSize);
    if (hit === undefined) return;
    this.#damage = new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged: its reference counts say that ${host} is free, but ${hit} lies there; run check`,
      { node: file.name, offset: host, length: count * clusterSize },
    );
    throw this.#damage;
  }

  /**
   * Carries out a plan, for which the table is long enough. All of it is there at one time, once what it counts in is in memory: a
   * checkpoint in between would write a block that does not count itself, or a table of two lengths.
   *
   * @param along does what has to come with it, and returns what the caller wants to know of that
   */
  async #take<T>({ start, count, hint, blocks }: Plan, along?: () => T): Promise<T | undefined> {
    const { clusterSize, hostMap } = this.#options;
    const clusters = [...blocks.values(), ...Array.from({ length: count }, (_, at) => start + at)];
    const regionOf = (cluster: number): number => Math.floor(cluster / this.#perBlock);
    const counting = new Map<number, RefcountBlock>();
    try {
      for (const region of new Set(clusters.map(regionOf))) {
        if (!blocks.has(region)) counting.set(region, this.#blocks.pin(await this.#block(region)));
      }
      const result = along?.();
      for (const [region, cluster] of blocks) {
        const host = cluster * clusterSize;
        counting.set(region, this.#blocks.make(region, host));
        hostMap.addTable(host, clusterSize);
        this.#table.setBlockHost(region, host);
      }
      for (const cluster of clusters) this.#setIn(counting.get(regionOf(cluster)) as RefcountBlock, cluster, 1);
      this.#hint = hint;
      return result;
    } finally {
      for (const block of counting.values()) this.#blocks.unpin(block);
    }
  }

  async #set(cluster: number, count: number): Promise<void> {
    this.#setIn(await this.#block(Math.floor(cluster / this.#perBlock)), cluster, count);
  }

  #setIn(block: RefcountBlock, cluster: number, count: number): void {
    block.set(cluster % this.#perBlock, count);
    this.#blocks.touched(block);
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
    const cached = this.#blocks.peek(region);
    if (cached !== undefined) return cached;
    const { file, clusterSize } = this.#options;
    const host = this.blockHost(region);
    if (host === 0) return this.#create(region);
    if (!this.blockIsSound(region)) {
      throw new StreamdiskError(
        "invalid-image",
        `Image '${file.name}' is damaged or truncated: its refcount block ${region} at ${host} is not in the file of ${file.length} bytes, or something else lies there`,
        { node: file.name, offset: host, length: clusterSize },
      );
    }
    return this.#blocks.load(region, host);
  }

  /** Makes the block of a region that has none. */
  async #create(region: number): Promise<RefcountBlock> {
    let plan = await this.#planBlock(region);
    while (plan.regions > this.regions) {
      await this.#growTable(plan.regions);
      const made = this.#blocks.peek(region);
      if (made !== undefined) return made;
      plan = await this.#planBlock(region);
    }
    await this.#take(plan);
    return this.#blocks.peek(region) as RefcountBlock;
  }

  /** A larger table at another place, long enough for the blocks that its own clusters need. */
  async #growTable(regions: number): Promise<void> {
    const { clusterSize, hostMap } = this.#options;
    let length = this.#tableBytes(Math.max(regions + 1, Math.ceil(this.regions * 1.5)));
    let plan = await this.#plan(length / clusterSize, length / clusterSize);
    while (plan.regions > length / 8) {
      length = this.#tableBytes(plan.regions + 1);
      plan = await this.#plan(length / clusterSize, length / clusterSize);
    }
    const offset = plan.start * clusterSize;
    const free = await this.#take(plan, () => {
      hostMap.setArea("the refcount table", offset, length);
      return this.#table.move(offset, length);
    });
    if (free === undefined) return;
    for (let at = 0; at < free.length; at += clusterSize) await this.#set((free.offset + at) / clusterSize, 0);
  }

  /** Bytes of a table of so many regions, in whole clusters. */
  #tableBytes(regions: number): number {
    const { clusterSize, file } = this.#options;
    const length = roundUp(regions * 8, clusterSize);
    if (length <= MOST_TABLE_BYTES) return length;
    throw new StreamdiskError(
      "no-space",
      `Could not allocate in '${file.name}': its refcount table would need ${length} bytes, and ${MOST_TABLE_BYTES} is the limit; use larger clusters`,
      { node: file.name },
    );
  }

  snapshot(): AllocatorSnapshot {
    const blocks = this.#blocks.snapshot();
    const table = this.#table.snapshot();
    const { offset, length } = this.table;
    return {
      blocks: [...blocks.writes, ...table.content],
      roots: table.roots,
      done: () => {
        blocks.done();
        if (table.moved === undefined) return;
        // The header that points at the new table is durable: the old one is free.
        this.#options.onTableMoved(offset, length / this.#options.clusterSize);
        // If that fails they are leaked, and `check` finds them. In a damaged image it may be something else's place, too.
        const { offset: before, length: bytes } = table.moved;
        if (this.#options.hostMap.hit(before, before + bytes) === undefined)
          this.release(before, bytes).catch(() => {});
      },
      undo: () => {
        blocks.undo();
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
