/**
 * The test for zeroes that the stream and `convert` run over every byte they copy: a buffer whose first bytes are zero
 * and that equals itself shifted by one byte is zero throughout, and comparing is one native call.
 */

/** Looked at byte by byte first: most data shows itself here, and a native call costs more. */
const PEEK = 16;

/**
 * Whether bytes `start` to `end` (not included) of `buffer` are all zero. An empty range is.
 */
export function isZero(buffer: Uint8Array, start = 0, end = buffer.length): boolean {
  const peekEnd = Math.min(end, start + PEEK);
  for (let i = start; i < peekEnd; i++) if (buffer[i] !== 0) return false;
  if (end === peekEnd) return true;
  return Buffer.compare(buffer.subarray(peekEnd, end), buffer.subarray(peekEnd - 1, end - 1)) === 0;
}
