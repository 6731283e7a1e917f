/** Requests at random, and what the server's replies must look like whatever was asked. */
import assert from "node:assert/strict";
import {
  CHUNK,
  COMMAND,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from "../../src/nbd/protocol.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { encodeRequest, type RawRequest } from "../support/raw-nbd-client.ts";

const KIB = 1024;
const COMMANDS = Object.values(COMMAND).filter((command) => command !== COMMAND.DISC);

/** A request that an export of `size` bytes may well carry out. */
export function drawRequest(random: Random, cookie: number, size: number): RawRequest {
  const command = oneOf(random, [...COMMANDS, COMMAND.READ, COMMAND.READ, COMMAND.WRITE, COMMAND.WRITE]);
  if (command === COMMAND.FLUSH) return { command, cookie };
  const length = Math.min(size, oneOf(random, [1, 512, 4 * KIB, 64 * KIB, 128 * KIB, 1500 * KIB]) + below(random, 700));
  const offset = below(random, size - length + 1);
  const flags = chance(random, 0.2) ? 1 << below(random, 6) : 0;
  if (command !== COMMAND.WRITE) return { command, cookie, offset, length, flags };
  return { command, cookie, offset, flags, data: Buffer.alloc(length, between(random, 1, 255)) };
}

/** Many requests that change nothing, so that all of them may be under way at once. */
export function drawReads(random: Random, size: number): RawRequest[] {
  const longest = oneOf(random, [600, 20 * KIB, 300 * KIB]);
  return Array.from({ length: between(random, 20, 150) }, (_, cookie) => {
    const length = between(random, 1, longest);
    return { command: COMMAND.READ, cookie, offset: below(random, size - length), length };
  });
}

/** More large writes than a connection can have in its own share of memory, the last of them cut short. */
export function drawLargeWrites(random: Random, size: number): Buffer {
  const writes = Array.from({ length: between(random, 2, 4) }, (_, cookie) => {
    const length = between(random, size / 4, size / 2);
    const request = {
      command: COMMAND.WRITE,
      cookie,
      offset: below(random, size - length),
      data: Buffer.alloc(length, 7),
    };
    return encodeRequest(request);
  });
  return Buffer.concat(writes).subarray(0, -between(random, 1, size / 4));
}

const EXTREMES = [0, 1, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

/** A stream of requests with something wrong in it, sooner or later. */
export function drawBentStream(random: Random, size: number): Buffer {
  const parts: Buffer[] = [];
  for (let cookie = between(random, 1, 20); cookie > 0; cookie--) {
    const request = drawRequest(random, cookie, size);
    const bytes = encodeRequest(request);
    if (chance(random, 0.3)) {
      const at = below(random, 25);
      if (chance(random, 0.5)) bytes[at]! ^= 1 << below(random, 8);
      else bytes.writeUInt32BE(oneOf(random, EXTREMES), at - (at % 4));
    }
    parts.push(bytes);
    if (chance(random, 0.02)) parts.push(Buffer.alloc(below(random, 100), 0x25));
  }
  const stream = Buffer.concat(parts);
  return chance(random, 0.3) ? stream.subarray(0, below(random, stream.length)) : stream;
}

/** One reply, whole or in part. */
export interface SeenReply {
  readonly cookie: number;
  /** Of a simple reply, or of an error chunk. */
  readonly error: number;
  readonly done: boolean;
  /** Where its bytes belong, and what they are; a hole's are zeroes. */
  readonly content: { readonly offset: number; readonly bytes: Buffer } | undefined;
}

/** Takes apart what a server with structured replies has sent. @throws {AssertionError} unless it is all well-formed */
export function* repliesOf(bytes: Buffer): Generator<SeenReply, void, undefined> {
  let at = 0;
  while (at < bytes.length) {
    const magic = bytes.readUInt32BE(at);
    if (magic === SIMPLE_REPLY_MAGIC) {
      const error = bytes.readUInt32BE(at + 4);
      yield { cookie: Number(bytes.readBigUInt64BE(at + 8)), error, done: true, content: undefined };
      at += SIMPLE_REPLY_BYTES;
      continue;
    }
    assert.equal(magic, STRUCTURED_REPLY_MAGIC);
    const done = bytes.readUInt16BE(at + 4) === 1;
    const type = bytes.readUInt16BE(at + 6);
    const cookie = Number(bytes.readBigUInt64BE(at + 8));
    const end = at + STRUCTURED_REPLY_BYTES + bytes.readUInt32BE(at + 16);
    assert.ok(end <= bytes.length, "a chunk is cut short");
    const payload = bytes.subarray(at + STRUCTURED_REPLY_BYTES, end);
    at = end;
    yield { cookie, done, ...meaningOf(type, payload, done) };
  }
}

function meaningOf(type: number, payload: Buffer, done: boolean): Pick<SeenReply, "error" | "content"> {
  switch (type) {
    case CHUNK.NONE:
      assert.deepEqual([payload.length, done], [0, true]);
      return { error: 0, content: undefined };
    case CHUNK.OFFSET_DATA:
      assert.ok(payload.length > 8);
      return { error: 0, content: { offset: Number(payload.readBigUInt64BE(0)), bytes: payload.subarray(8) } };
    case CHUNK.OFFSET_HOLE: {
      assert.equal(payload.length, 12);
      const length = payload.readUInt32BE(8);
      assert.ok(length > 0);
      return { error: 0, content: { offset: Number(payload.readBigUInt64BE(0)), bytes: Buffer.alloc(length) } };
    }
    case CHUNK.BLOCK_STATUS:
      assert.ok(payload.length > 4 && payload.length % 8 === 4);
      for (let at = 4; at < payload.length; at += 8) assert.notEqual(payload.readUInt32BE(at), 0);
      return { error: 0, content: undefined };
    case CHUNK.ERROR:
      assert.equal(payload.length, 6 + payload.readUInt16BE(4));
      assert.notEqual(payload.readUInt32BE(0), 0);
      return { error: payload.readUInt32BE(0), content: undefined };
    default:
      return assert.fail(`a chunk of type ${type}`);
  }
}
