import type { StreamExtent, StreamTarget } from "./target.ts";

/** Extents that are walked before other work gets a turn. */
const TURN = 4096;

/** What a disk has and lacks, in bytes. */
export interface Tally {
  local: number;
  zero: number;
  /** To be fetched or cleared. */
  missing: number;
  /** The part of `missing` that takes room. */
  fetch: number;
  /** The first missing byte; the length of the disk when there is none. */
  first: number;
}

/** Counts what a disk lacks, without reading any data. Stops early when the signal aborts. */
export async function takeTally(target: StreamTarget, signal?: AbortSignal): Promise<Tally> {
  const tally: Tally = { local: 0, zero: 0, missing: 0, fetch: 0, first: target.length };
  for await (const { offset, length, kind } of walk(target, 0, signal)) {
    if (kind === "local") tally.local += length;
    else if (kind === "zero") tally.zero += length;
    else if (kind !== "base") {
      if (tally.missing === 0) tally.first = offset;
      tally.missing += length;
      if (kind === "fetch") tally.fetch += length;
    }
  }
  return tally;
}

/**
 * Walks the extents of a disk from `offset` to its end. When all metadata is in memory such a walk never leaves the
 * microtask queue, so it makes room for timers and signals by itself.
 */
export async function* walk(
  target: StreamTarget,
  offset: number,
  signal?: AbortSignal,
): AsyncGenerator<StreamExtent, void, undefined> {
  let count = 0;
  for await (const extent of target.extents(offset, target.length - offset)) {
    if (signal?.aborted) return;
    yield extent;
    if (++count % TURN === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}
