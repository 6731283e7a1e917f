/**
 * QED appends: the file's end is where the next cluster comes from, and no list of free clusters exists on disk. So nothing is given
 * back while the image is in use: a cluster that is zeroed keeps its place, with a hole in the file. What a write that
 * failed had reserved is leaked, and `check` can give it back.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { AllocatorSnapshot, ClusterAllocator, HostRun } from "../mapped/allocator.ts";
import { roundUp } from "../mapped/geometry.ts";

const NOTHING: AllocatorSnapshot = { blocks: [], roots: [], done: () => {}, undo: () => {} };

export class QedAllocator implements ClusterAllocator {
  readonly reclaims = false;
  readonly dirty = false;
  readonly #file: BlockNode;
  readonly #clusterSize: number;
  #end: number;

  constructor(file: BlockNode, clusterSize: number) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#end = roundUp(file.length, clusterSize);
  }

  async allocate(_least: number, most: number): Promise<HostRun> {
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
  }

  async release(): Promise<void> {}

  snapshot(): AllocatorSnapshot {
    return NOTHING;
  }
}
