/**
 * Where new clusters come from. qcow2 counts references, QED appends; the engine knows neither.
 *
 * Allocation is in memory; a checkpoint (ADR 1) writes what it changed. An allocator may be ahead of the mapping on disk (at
 * worst clusters leak) and must never be behind it.
 */

/** A write of metadata that a checkpoint will do. */
export interface MetadataWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What an allocator has to write, in the order of ADR 1. */
export interface AllocatorSnapshot {
  /** Safe at any time: refcount blocks. */
  readonly blocks: readonly MetadataWrite[];
  /** After a flush of `blocks`: what points at new ones. */
  readonly roots: readonly MetadataWrite[];
  /** All of it has reached the file. */
  done(): void;
  /** It has not: all of it is dirty again. */
  undo(): void;
}

/** A run of clusters next to each other. */
export interface HostRun {
  /** Host offset in bytes. */
  readonly host: number;
  readonly count: number;
}

export interface ClusterAllocator {
  /** Whether what is released can be found again, also by another program: otherwise it would be a leak. */
  readonly reclaims: boolean;

  /**
   * Reserves between `least` and `most` adjacent clusters.
   * @throws {StreamdiskError} `no-space` when the format can address no more
   */
  allocate(least: number, most: number): Promise<HostRun>;
  /** Takes one reference from each cluster that [host, host + length) touches. It may be allocated again at once. */
  release(host: number, length: number): Promise<void>;
  /** Takes what is dirty; it counts as clean then. End it with `done` or `undo`. */
  snapshot(): AllocatorSnapshot;
  readonly dirty: boolean;
}
