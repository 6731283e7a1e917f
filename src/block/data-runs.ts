import { isZero } from "./zero-test.ts";

/** Zeroes shorter than this are copied as data: looking closer costs more than it saves. */
const SMALLEST_ZERO = 4096;

/** A part of a buffer, from `start` to `end` (not included). */
export interface DataRun {
  readonly start: number;
  readonly end: number;
  readonly zero: boolean;
}

/**
 * Splits a buffer into runs of data and runs of zeroes, in order.
 *
 * @param grain runs begin and end at multiples of it, or at the end of the buffer
 */
export function* dataRuns(data: Uint8Array, grain: number): Generator<DataRun, void, undefined> {
  const step = Math.max(grain, SMALLEST_ZERO);
  const zeroAt = (position: number): boolean => isZero(data, position, Math.min(position + step, data.length));
  for (let start = 0; start < data.length; ) {
    const zero = zeroAt(start);
    let end = start + step;
    while (end < data.length && zeroAt(end) === zero) end += step;
    yield { start, end: Math.min(end, data.length), zero };
    start = end;
  }
}
