/**
 * Ranges that are known to read as zeroes, as plain data that can be stored: pairs of offset and length in bytes, ascending and
 * apart from each other.
 */
export type ZeroRanges = readonly (readonly [offset: number, length: number])[];

/** How far, from `offset` on, all is zero; `offset` itself when it is not. By bisection. */
export function zeroUntil(ranges: ZeroRanges, offset: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const [start, length] = ranges[middle] as ZeroRanges[number];
    if (start + length <= offset) low = middle + 1;
    else high = middle;
  }
  const [start, length] = ranges[low] ?? [Number.POSITIVE_INFINITY, 0];
  return start <= offset ? start + length : offset;
}

/**
 * Brings ranges in order: sorts them, joins those that touch, and leaves out the smallest where there are too many.
 *
 * @param most ranges that are kept
 */
export function tidyZeroes(ranges: ZeroRanges, most: number): ZeroRanges {
  const joined: [number, number][] = [];
  for (const [offset, length] of ranges.toSorted(([a], [b]) => a - b)) {
    const last = joined.at(-1);
    if (last !== undefined && last[0] + last[1] >= offset) last[1] = Math.max(last[1], offset + length - last[0]);
    else joined.push([offset, length]);
  }
  if (joined.length <= most) return joined;
  const kept = joined.toSorted(([, a], [, b]) => b - a).slice(0, most);
  return kept.sort(([a], [b]) => a - b);
}
