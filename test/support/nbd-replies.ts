/** Replies of the NBD transmission phase as a server would write them, right or wrong. */
import { CHUNK, CHUNK_DONE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC } from "../../src/nbd/protocol.ts";

/** The header of a simple reply; data of a READ follows it. */
export function simpleReply(cookie: number, error = 0): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(error, 4);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  return bytes;
}

/** A chunk of a structured reply. */
export function chunk(cookie: number, type: number, payload: Uint8Array, done = false, flags = 0): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  header.writeUInt16BE((done ? CHUNK_DONE : 0) | flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(BigInt(cookie), 8);
  header.writeUInt32BE(payload.length, 16);
  return Buffer.concat([header, payload]);
}

export function contentChunk(cookie: number, offset: number, data: Uint8Array, done = false, flags = 0): Buffer {
  return chunk(cookie, CHUNK.OFFSET_DATA, Buffer.concat([uint64(offset), data]), done, flags);
}

export function holeChunk(cookie: number, offset: number, length: number, done = false): Buffer {
  return chunk(cookie, CHUNK.OFFSET_HOLE, Buffer.concat([uint64(offset), uint32(length)]), done);
}

/** @param runs length and status of each extent */
export function statusChunk(
  cookie: number,
  context: number,
  runs: readonly (readonly [number, number])[],
  done = false,
): Buffer {
  const payload = Buffer.alloc(4 + 8 * runs.length);
  payload.writeUInt32BE(context, 0);
  for (const [index, [length, flags]] of runs.entries()) {
    payload.writeUInt32BE(length, 4 + 8 * index);
    payload.writeUInt32BE(flags, 8 + 8 * index);
  }
  return chunk(cookie, CHUNK.BLOCK_STATUS, payload, done);
}

export function errorChunk(
  cookie: number,
  error: number,
  text: string,
  { offset, done = false }: { offset?: number; done?: boolean } = {},
): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(Buffer.byteLength(text));
  const parts = [uint32(error), length, Buffer.from(text)];
  if (offset === undefined) return chunk(cookie, CHUNK.ERROR, Buffer.concat(parts), done);
  return chunk(cookie, CHUNK.ERROR_OFFSET, Buffer.concat([...parts, uint64(offset)]), done);
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
