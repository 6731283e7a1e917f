/**
 * Checkpoints: how changed metadata reaches the image, in the order of ADR 1.
 *
 *     rotate the log, take snapshots
 *     write refcount blocks                        | nothing on disk refers to what they add
 *     flush                                        | they, new L2 tables, and all data that the snapshot maps are durable
 *     write what points at new refcount blocks, flush   (only when there are any)
 *     write L2 and L1 entries                      | the mapping is in the kernel
 *     drop the old log
 *     flush                                        | only when asked: the mapping is durable
 *
 * One checkpoint runs at a time; those who ask while it runs share the next one. What a mapping referred to before
 * (`MappingTables.free`) is given back only when the change is durable and all requests that might still read it have ended.
 */
import { type BlockNode, letGo } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { Activity } from "./activity.ts";
import type { ClusterAllocator, MetadataWrite } from "./allocator.ts";
import type { MappingLog } from "./mapping-log.ts";
import type { HostRange, MappingTables } from "./tables.ts";

/** So many logged mappings and a checkpoint is due, that the log stays small. */
const LOGGED_BETWEEN_CHECKPOINTS = 16384;

export class Checkpoints {
  readonly #file: BlockNode;
  readonly #tables: MappingTables;
  readonly #allocator: ClusterAllocator;
  readonly #log: MappingLog | undefined;
  readonly activity = new Activity();

  /** Guest clusters whose mapping is in memory alone: no log has it, and the kernel does not yet. */
  #unlogged = new Set<number>();
  /** Those of them that the running checkpoint writes. */
  #unloggedInFlight = new Set<number>();
  /** References that were taken away by changes that are in the kernel and not durable yet. */
  #freedInKernel: readonly HostRange[] = [];
  #releasing: Promise<void> = Promise.resolve();
  #leaky = false;
  #logged = 0;

  #running: Promise<void> | undefined;
  #next: { promise: Promise<void>; durable: boolean } | undefined;

  constructor(file: BlockNode, tables: MappingTables, allocator: ClusterAllocator, log: MappingLog | undefined) {
    this.#file = file;
    this.#tables = tables;
    this.#allocator = allocator;
    this.#log = log;
  }

  /** A mapping changed without an acknowledgement (populate). */
  noteUnlogged(cluster: number): void {
    this.#unlogged.add(cluster);
  }

  /**
   * A mapping must outlive this process before the caller acknowledges.
   * @returns whether the caller has to wait for a checkpoint, since no log has it
   */
  noteAcknowledged(cluster: number, entry: Uint8Array): boolean {
    if (!this.#append(cluster, entry)) {
      this.#unlogged.add(cluster);
      return true;
    }
    this.#unlogged.delete(cluster);
    this.#unloggedInFlight.delete(cluster);
    return false;
  }

  /** False when there is no log, or no room in it: a checkpoint does as well, and empties it. */
  #append(cluster: number, entry: Uint8Array): boolean {
    if (this.#log === undefined) return false;
    try {
      this.#log.append(cluster, entry);
    } catch (error) {
      if (error instanceof StreamdiskError && error.code === "no-space") return false;
      throw error;
    }
    if (++this.#logged % LOGGED_BETWEEN_CHECKPOINTS === 0) {
      // A failure keeps everything dirty, and the next flush reports it.
      this.run(false).catch(() => {});
    }
    return true;
  }

  /** Whether the mapping of a cluster would be lost with the process. */
  isUnlogged(cluster: number): boolean {
    return this.#unlogged.has(cluster) || this.#unloggedInFlight.has(cluster);
  }

  get #dirty(): boolean {
    return this.#tables.dirty || this.#allocator.dirty;
  }

  /** Everything that was changed before the call is in the kernel, and durable if asked, when it resolves. */
  run(durable: boolean): Promise<void> {
    if (this.#next !== undefined) {
      this.#next.durable ||= durable;
      return this.#next.promise;
    }
    const next = { durable, promise: Promise.resolve() };
    const before = this.#running ?? Promise.resolve();
    this.#next = next;
    next.promise = before
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#checkpoint(next.durable);
      });
    const running: Promise<void> = next.promise.finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    running.catch(() => {});
    this.#running = running;
    return next.promise;
  }

  /** Runs an act upon the header while no checkpoint runs: both may write to its first sector. */
  async alone(act: () => Promise<void>): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => {});
    const running = act().finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    this.#running = running;
    await running;
  }

  async #checkpoint(durable: boolean): Promise<void> {
    if (!this.#dirty && this.#freedInKernel.length === 0) {
      if (durable) await this.#file.flush();
      return;
    }
    // Also after one that failed: what was logged since then is part of this one, and must go with it.
    this.#log?.rotate();
    const tables = this.#tables.snapshot();
    const clusters = this.#allocator.snapshot();
    const inKernelBefore = this.#freedInKernel;
    this.#freedInKernel = [];
    for (const cluster of this.#unlogged) this.#unloggedInFlight.add(cluster);
    this.#unlogged = new Set();
    try {
      await this.#write(clusters.blocks);
      await this.#file.flush();
      if (clusters.roots.length > 0) {
        await this.#write(clusters.roots);
        await this.#file.flush();
      }
      await this.#write(tables.entries);
    } catch (error) {
      tables.undo();
      clusters.undo();
      this.#freedInKernel = inKernelBefore;
      for (const cluster of this.#unloggedInFlight) this.#unlogged.add(cluster);
      this.#unloggedInFlight = new Set();
      throw error;
    }
    tables.done();
    clusters.done();
    this.#unloggedInFlight = new Set();
    this.#log?.dropOld();
    this.#giveBack(inKernelBefore);
    this.#freedInKernel = tables.freed;
    if (!durable) return;
    await this.#file.flush();
    this.#freedInKernel = [];
    this.#giveBack(tables.freed);
  }

  async #write(writes: readonly MetadataWrite[]): Promise<void> {
    for (const { offset, bytes } of writes) {
      await this.#file.write(offset, bytes);
      letGo(bytes);
    }
  }

  /**
   * The change that freed these is durable; they go back once nobody can be reading them. If that fails they are leaked, which is
   * no reason to fail anything else.
   */
  #giveBack(ranges: readonly HostRange[]): void {
    if (ranges.length === 0) return;
    this.activity.whenIdleSince(() => {
      this.#releasing = this.#releasing
        .then(async () => {
          for (const { host, length } of ranges) await this.#allocator.release(host, length);
        })
        .catch(() => {
          this.#leaky = true;
        });
    });
  }

  /** Whether clusters are leaked, or would be if this were the end: the image is to be repaired when it is opened next. */
  get leaky(): boolean {
    return this.#leaky || this.activity.isAwaited;
  }

  /** Makes all durable and gives back all that was freed. No request may be under way. */
  async settle(): Promise<void> {
    await this.run(true);
    await this.#releasing;
    if (this.#dirty) await this.run(true);
  }
}
