/**
 * Gives the memory of a buffer back at once; the buffer has no bytes any more. The collector would come for it in the end, but
 * lets about 64 MiB gather first, which is more than all else that a stream takes.
 *
 * Node keeps several small Buffers in one; these stay. None of them is as long as half of what it lies in.
 */
export function letGo(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer && 2 * bytes.length > buffer.byteLength) buffer.transfer(0);
}
