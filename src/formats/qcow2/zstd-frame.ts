/**
 * Where a zstd frame ends (RFC 8878, section 3.1.1). A compressed cluster is followed by whatever fills its last sector, which zlib
 * ignores after its end mark and zstd would take for another frame: so the frame is cut out before it is expanded.
 */
import { viewOf } from "./big-endian.ts";

const MAGIC = 0xfd2fb528;
const BLOCK_RLE = 1;
const BLOCK_RESERVED = 3;
const CHECKSUM_BYTES = 4;

/**
 * Length of the frame at the start of `bytes`, by its headers alone.
 *
 * @returns undefined when there is none, or when it is cut off
 */
export function zstdFrameLength(bytes: Uint8Array): number | undefined {
  const view = viewOf(bytes);
  if (bytes.length < 5 || view.getUint32(0, true) !== MAGIC) return undefined;
  const descriptor = view.getUint8(4);
  let at = 5 + headerFieldBytes(descriptor);
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) return undefined;
    const block = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    const type = (block >> 1) & 3;
    if (type === BLOCK_RESERVED) return undefined;
    last = (block & 1) !== 0;
    at += 3 + (type === BLOCK_RLE ? 1 : block >> 3);
  }
  const hasChecksum = (descriptor & 4) !== 0;
  const end = at + (hasChecksum ? CHECKSUM_BYTES : 0);
  return end <= bytes.length ? end : undefined;
}

/** Bytes of the window, dictionary and content size fields. */
function headerFieldBytes(descriptor: number): number {
  const singleSegment = (descriptor & 0x20) !== 0;
  const contentSizeFlag = descriptor >> 6;
  const contentSize = contentSizeFlag === 0 ? (singleSegment ? 1 : 0) : 2 ** contentSizeFlag;
  const dictionary = [0, 1, 2, 4][descriptor & 3] ?? 0;
  return (singleSegment ? 0 : 1) + dictionary + contentSize;
}
