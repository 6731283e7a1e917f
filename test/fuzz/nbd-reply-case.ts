/**
 * A stream of right replies to some requests, bent somewhere, and fed to the client's reader in random pieces. The reader must
 * come to the same end as the oracle, write nothing outside its targets, and throw nothing but a typed error.
 */
import assert from "node:assert/strict";
import { StreamdiskError } from "../../src/errors/index.ts";
import { ReplyReader } from "../../src/nbd/client/reply-reader.ts";
import { NbdRequest } from "../../src/nbd/client/request.ts";
import { CHUNK, COMMAND, type Command } from "../../src/nbd/protocol.ts";
import { below, between, chance, oneOf, type Random, shuffled } from "../support/draw.ts";
import { chunk, contentChunk, errorChunk, holeChunk, simpleReply, statusChunk } from "../support/nbd-replies.ts";
import { judgeReplies, type OracleAnswer, type OracleRequest } from "./nbd-reply-oracle.ts";

const EXPORT = 8192;
const CONTEXTS = new Map([
  [1, "base:allocation"],
  [2, "qemu:allocation-depth"],
]);
/** Bytes on either side of a target. */
const GUARD = 16;

/** @returns what came of it, for a count */
export function replyCase(random: Random): "right" | "broken" {
  const structured = chance(random, 0.8);
  const requests = Array.from({ length: between(random, 1, 4) }, (_, index) =>
    drawRequest(random, index + 1, structured),
  );
  const replies = requests.map((request) => drawReply(random, request, structured));
  const stream = bend(random, interleave(random, replies), requests);
  const contexts = structured ? CONTEXTS : new Map<number, string>();
  const judged = judgeReplies(stream, requests, { exportLength: EXPORT, structured, contexts });

  const arenas = new Map<number, Buffer>();
  const inFlight = new Map<number, NbdRequest>();
  for (const { cookie, command, offset, length } of requests) {
    const arena = Buffer.alloc(length + 2 * GUARD, 0xe7);
    const target = arena.subarray(GUARD, GUARD + length);
    arenas.set(cookie, arena);
    inFlight.set(
      cookie,
      new NbdRequest(command as Command, offset, length, command === COMMAND.READ ? { target } : {}),
    );
  }
  const answers = new Map<number, OracleAnswer>();
  const reader = new ReplyReader(
    { node: "disk", exportLength: EXPORT, structured, contexts },
    {
      find: (cookie) => inFlight.get(cookie),
      done: (request) => {
        const cookie = [...inFlight].find(([, other]) => other === request)![0];
        inFlight.delete(cookie);
        answers.set(cookie, answerOf(request, arenas.get(cookie)!));
      },
    },
  );
  let broken = false;
  try {
    for (let at = 0; at < stream.length; ) {
      const count = between(random, 1, oneOf(random, [3, 40, 4000]));
      reader.feed(stream.subarray(at, at + count));
      at += count;
    }
  } catch (error) {
    assert.ok(error instanceof StreamdiskError && error.code === "protocol", String(error));
    broken = true;
  }
  assert.equal(broken, judged.broken);
  assert.deepEqual(answers, judged.answers);
  for (const arena of arenas.values()) {
    assert.ok(
      arena.subarray(0, GUARD).every((byte) => byte === 0xe7),
      "bytes before a target",
    );
    assert.ok(
      arena.subarray(-GUARD).every((byte) => byte === 0xe7),
      "bytes after a target",
    );
  }
  return broken ? "broken" : "right";
}

function answerOf(request: NbdRequest, arena: Buffer): OracleAnswer {
  if (request.errorValue !== 0) return { error: request.errorValue };
  if (request.command === COMMAND.READ) return { data: Buffer.from(arena.subarray(GUARD, GUARD + request.length)) };
  if (request.command !== COMMAND.BLOCK_STATUS) return "done";
  const told = Array.from(request.status, ([name, runs]) => {
    return `${name}: ${runs.lengths.map((length, index) => `${length}/${runs.flags[index]}`).join(" ")}`;
  });
  return { status: told.sort().join("; ") };
}

function drawRequest(random: Random, cookie: number, structured: boolean): OracleRequest {
  const command = oneOf(random, [
    ...[COMMAND.READ, COMMAND.READ, COMMAND.READ, COMMAND.WRITE, COMMAND.FLUSH],
    ...(structured ? [COMMAND.BLOCK_STATUS, COMMAND.BLOCK_STATUS] : []),
  ]);
  if (command === COMMAND.FLUSH) return { cookie, command, offset: 0, length: 0 };
  const length = between(random, 1, 64);
  return { cookie, command, offset: chance(random, 0.3) ? EXPORT - length : below(random, EXPORT - length), length };
}

/** Pieces of a right reply, in their order. */
function drawReply(random: Random, request: OracleRequest, structured: boolean): Buffer[] {
  const { cookie, command, offset, length } = request;
  const random32 = (): Buffer => Buffer.from(Array.from({ length }, () => below(random, 256)));
  if (!structured) {
    const error = chance(random, 0.2) ? 5 : 0;
    const header = simpleReply(cookie, error);
    return [command === COMMAND.READ && error === 0 ? Buffer.concat([header, random32()]) : header];
  }
  if (command === COMMAND.WRITE || command === COMMAND.FLUSH) {
    if (chance(random, 0.5)) return [simpleReply(cookie, chance(random, 0.2) ? 28 : 0)];
    return [
      chance(random, 0.3)
        ? errorChunk(cookie, 5, "no", { done: true })
        : chunk(cookie, CHUNK.NONE, Buffer.alloc(0), true),
    ];
  }
  const pieces: Buffer[] = [];
  if (command === COMMAND.READ) {
    for (let at = offset; at < offset + length; ) {
      const count = between(random, 1, offset + length - at);
      const data = Buffer.from(Array.from({ length: count }, () => below(random, 256)));
      pieces.push(chance(random, 0.3) ? holeChunk(cookie, at, count) : contentChunk(cookie, at, data));
      at += count;
    }
  } else {
    for (const id of CONTEXTS.keys()) pieces.push(statusChunk(cookie, id, drawRuns(random, request)));
  }
  const order = shuffled(random, pieces);
  if (chance(random, 0.2)) {
    order.push(errorChunk(cookie, 5, "late", chance(random, 0.5) ? { offset: offset + below(random, length) } : {}));
  }
  order.push(chunk(cookie, CHUNK.NONE, Buffer.alloc(0), true));
  return order;
}

function drawRuns(random: Random, { offset, length }: OracleRequest): [number, number][] {
  const runs: [number, number][] = [];
  for (let told = 0; told < length && runs.length < 20; ) {
    const run = between(random, 1, Math.min(EXPORT - offset - told, length));
    runs.push([run, below(random, 4)]);
    told += run;
    if (chance(random, 0.1)) break;
  }
  return runs;
}

/** The pieces of all replies, each reply's in its own order. */
function interleave(random: Random, replies: readonly Buffer[][]): Buffer[] {
  const left = replies.map((pieces) => [...pieces]).filter((pieces) => pieces.length > 0);
  const all: Buffer[] = [];
  while (left.length > 0) {
    const pieces = oneOf(random, left);
    all.push(pieces.shift()!);
    if (pieces.length === 0) left.splice(left.indexOf(pieces), 1);
  }
  return all;
}

/** Values that stand at the edge of something. */
const EDGES = [0, 1, 2, 5, 7, 8, 9, 12, 63, 64, 0x7fff, 0x8001, 0x8002, 0xffff, 0x7fffffff, 0xffffffff];

/** A whole piece that could have been part of a reply, near what was asked for. */
function drawAlien(random: Random, { cookie, offset, length }: OracleRequest): Buffer {
  const near = Math.max(0, offset + between(random, -2, length));
  const done = chance(random, 0.5);
  switch (below(random, 5)) {
    case 0:
      return simpleReply(cookie, chance(random, 0.5) ? 5 : 0);
    case 1:
      return holeChunk(cookie, near, between(random, 0, length + 1), done);
    case 2:
      return contentChunk(cookie, near, Buffer.alloc(below(random, length + 2)), done);
    case 3:
      return errorChunk(cookie, 5, "", { offset: near, done });
    default: {
      // Exactly what was asked for and one more, or up to the end of the export or just past it.
      const more: [number, number] = chance(random, 0.5) ? [1, 0] : [EXPORT - offset - length + below(random, 2), 0];
      return statusChunk(
        cookie,
        between(random, 1, 2),
        chance(random, 0.5) ? [[length, 3], more] : [[length + more[0], 3]],
        done,
      );
    }
  }
}

/** Now and then nothing; else fields, bytes, and whole pieces changed. */
function bend(random: Random, pieces: readonly Buffer[], requests: readonly OracleRequest[]): Buffer {
  const bent: Buffer[] = pieces.map((piece) => Buffer.from(piece));
  for (let times = below(random, 4); times > 0 && bent.length > 0; times--) {
    const at = below(random, bent.length);
    const piece = bent[at]!;
    const field = below(random, Math.max(1, piece.length - 4));
    switch (below(random, 8)) {
      case 0:
        piece[below(random, piece.length)]! ^= 1 << below(random, 8);
        break;
      case 1:
        if (piece.length >= 4)
          piece.writeUInt32BE(
            oneOf(random, EDGES),
            oneOf(random, [4, 8, 12, 16, 20, 24, 28, field]) % (piece.length - 3),
          );
        break;
      case 2:
        if (piece.length >= 8) piece.writeUInt16BE(oneOf(random, EDGES) & 0xffff, oneOf(random, [4, 6]));
        break;
      case 3:
        bent.splice(at, 1);
        break;
      case 4:
        bent.splice(below(random, bent.length + 1), 0, Buffer.from(piece));
        break;
      case 5:
        bent[at] = piece.subarray(0, below(random, piece.length));
        break;
      case 6:
        bent.splice(below(random, bent.length), 0, ...bent.splice(at, 1));
        break;
      case 7:
        bent.splice(at, chance(random, 0.5) ? 1 : 0, drawAlien(random, oneOf(random, requests)));
        break;
    }
  }
  return Buffer.concat(bent);
}
