/** How a large read is answered: what is known to be zero as holes, the rest as data. */
import type { Extent } from "../../block/index.ts";

/** Shorter zeroes are sent as data: a chunk of its own would cost more. */
const LEAST_HOLE = 4096;

/** A stretch of a read. */
export interface ReadRun {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
}

/**
 * Cuts a range by the extents of its beginning.
 *
 * @param extents as a node tells them, of all of the range or a prefix
 */
export function readPlan(offset: number, length: number, extents: readonly Extent[]): ReadRun[] {
  const end = offset + length;
  const runs: { offset: number; length: number; hole: boolean }[] = [];
  const add = (from: number, to: number, hole: boolean): void => {
    const last = runs.at(-1);
    if (last?.hole === hole) last.length += to - from;
    else if (to > from) runs.push({ offset: from, length: to - from, hole });
  };
  let position = offset;
  for (const extent of extents) {
    if (position >= end) break;
    const to = Math.min(end, extent.offset + extent.length);
    const hole = extent.kind === "zero" && (to - position >= LEAST_HOLE || runs.at(-1)?.hole === true);
    add(position, to, hole);
    position = to;
  }
  add(position, end, false);
  return runs;
}
