/**
 * Replies of the transmission phase (doc/proto.md, "Simple reply message", "Structured reply types"), put into memory that is
 * there. Each function returns the number of bytes that it has written.
 */
import {
  CHUNK,
  CHUNK_DONE,
  MAX_STRING,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
  setUint64,
} from "../protocol.ts";

/** What connects a reply with its request. */
export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** Bytes before the data of a read. */
export const DATA_HEADER_BYTES: number = STRUCTURED_REPLY_BYTES + 8;
export const HOLE_BYTES: number = STRUCTURED_REPLY_BYTES + 12;

export function putSimple(view: DataView, at: number, { cookieHigh, cookieLow }: Cookie, error: number): number {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  return SIMPLE_REPLY_BYTES;
}

function putChunk(view: DataView, at: number, cookie: Cookie, done: boolean, type: number, length: number): void {
  view.setUint32(at, STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, done ? CHUNK_DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
  view.setUint32(at + 16, length);
}

/** Ends a reply that has no content, or whose content has been sent. */
export function putNone(view: DataView, at: number, cookie: Cookie): number {
  putChunk(view, at, cookie, true, CHUNK.NONE, 0);
  return STRUCTURED_REPLY_BYTES;
}

/** What comes before `length` bytes of data that lie at `offset` of the export. */
export function putDataHeader(
  view: DataView,
  at: number,
  cookie: Cookie,
  done: boolean,
  offset: number,
  length: number,
): number {
  putChunk(view, at, cookie, done, CHUNK.OFFSET_DATA, 8 + length);
  setUint64(view, at + STRUCTURED_REPLY_BYTES, offset);
  return DATA_HEADER_BYTES;
}

export function putHole(
  view: DataView,
  at: number,
  cookie: Cookie,
  done: boolean,
  offset: number,
  length: number,
): number {
  putChunk(view, at, cookie, done, CHUNK.OFFSET_HOLE, 12);
  setUint64(view, at + STRUCTURED_REPLY_BYTES, offset);
  view.setUint32(at + DATA_HEADER_BYTES, length);
  return HOLE_BYTES;
}

/** A chunk that ends a reply with an error and a sentence about it. */
export function encodeError(cookie: Cookie, error: number, message: string): Buffer {
  const text = shortened(message);
  const bytes = Buffer.alloc(STRUCTURED_REPLY_BYTES + 6 + text.length);
  const view = viewOf(bytes);
  putChunk(view, 0, cookie, true, CHUNK.ERROR, 6 + text.length);
  view.setUint32(STRUCTURED_REPLY_BYTES, error);
  view.setUint16(STRUCTURED_REPLY_BYTES + 4, text.length);
  bytes.set(text, STRUCTURED_REPLY_BYTES + 6);
  return bytes;
}

/** A run of one status in one metadata context. */
export interface StatusRun {
  readonly length: number;
  readonly flags: number;
}

/** Runs that start where the request starts. Each is shorter than 2^32. */
export function encodeStatus(cookie: Cookie, done: boolean, contextId: number, runs: readonly StatusRun[]): Buffer {
  const bytes = Buffer.alloc(STRUCTURED_REPLY_BYTES + 4 + 8 * runs.length);
  const view = viewOf(bytes);
  putChunk(view, 0, cookie, done, CHUNK.BLOCK_STATUS, 4 + 8 * runs.length);
  view.setUint32(STRUCTURED_REPLY_BYTES, contextId);
  let at = STRUCTURED_REPLY_BYTES + 4;
  for (const { length, flags } of runs) {
    view.setUint32(at, length);
    view.setUint32(at + 4, flags);
    at += 8;
  }
  return bytes;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Text that the protocol has room for, not cut within a character. */
function shortened(message: string): Buffer {
  const bytes = Buffer.from(message);
  if (bytes.length <= MAX_STRING) return bytes;
  let end = MAX_STRING;
  while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}
