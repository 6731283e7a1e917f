/**
 * QED appends: the file's end is where the next cluster comes from, and no list of free clusters exists on disk. What is given back
 * is punched out of the file and handed out again while the image is open; after that it is a leak that `check` can find.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { AllocatorSnapshot, ClusterAllocator, HostRun } from "../mapped/allocator.ts";
import { roundUp } from "../mapped/geometry.ts";

const NOTHING: AllocatorSnapshot = { blocks: [], roots: [], done: () => {}, undo: () => {} };

export class QedAllocator implements ClusterAllocator {
  readonly dirty = false;
  readonly #file: BlockNode;
  readonly #clusterSize: number;
  #end: number;
  /** Single clusters to hand out again, by host offset. */
  readonly #free: number[] = [];

  constructor(file: BlockNode, clusterSize: number) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#end = roundUp(file.length, clusterSize);
  }

  async allocate(least: number, most: number): Promise<HostRun> {
    const reused = least === 1 ? this.#free.pop() : undefined;
    if (reused !== undefined) return { host: reused, count: 1 };
    const host = this.#end;
    const end = host + most * this.#clusterSize;
    if (!Number.isSafeInteger(end)) {
      throw new StreamdiskError(
        "no-space",
        `Could not allocate in '${this.#file.name}': it has ${host} bytes already`,
        {
          node: this.#file.name,
        },
      );
    }
    this.#end = end;
    return { host, count: most };
  }

  /** Clusters below `end` are taken: those that a log speaks of (ADR 1). */
  reserve(end: number): void {
    this.#end = Math.max(this.#end, roundUp(end, this.#clusterSize));
  }

  /** The file has been cut by a repair. */
  reset(): void {
    this.#end = roundUp(this.#file.length, this.#clusterSize);
    this.#free.length = 0;
  }

  async release(host: number, length: number): Promise<void> {
    const end = Math.min(host + length, this.#file.length);
    if (host < end) await this.#file.discard(host, end - host);
    for (let at = host; at < host + length; at += this.#clusterSize) this.#free.push(at);
  }

  snapshot(): AllocatorSnapshot {
    return NOTHING;
  }
}
