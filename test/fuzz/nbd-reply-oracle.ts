/**
 * What the replies in a byte stream mean, by the letter of the NBD protocol and in the plainest way there is: the whole stream
 * at once, a flag a byte. The client's reader must come to the same end.
 */
import { CHUNK, COMMAND, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC } from "../../src/nbd/protocol.ts";

export interface OracleRequest {
  readonly cookie: number;
  readonly command: number;
  readonly offset: number;
  readonly length: number;
}

export interface OracleRules {
  readonly exportLength: number;
  readonly structured: boolean;
  readonly contexts: ReadonlyMap<number, string>;
}

/** How a request ended. */
export type OracleAnswer =
  | { readonly error: number }
  | { readonly data: Buffer }
  | { readonly status: string }
  | "done";

export interface OracleResult {
  readonly answers: Map<number, OracleAnswer>;
  /** Whether the stream broke the protocol. */
  readonly broken: boolean;
}

interface Open extends OracleRequest {
  readonly bytes: Buffer;
  readonly seen: Uint8Array;
  readonly status: Map<number, number[][]>;
  error: number;
  errorAt: number | undefined;
}

class Broken extends Error {}

export function judgeReplies(stream: Buffer, requests: readonly OracleRequest[], rules: OracleRules): OracleResult {
  const answers = new Map<number, OracleAnswer>();
  const open = new Map<number, Open>();
  for (const request of requests) {
    const room = request.command === COMMAND.READ ? request.length : 0;
    open.set(request.cookie, {
      ...request,
      bytes: Buffer.alloc(room),
      seen: new Uint8Array(room),
      status: new Map(),
      error: 0,
      errorAt: undefined,
    });
  }
  const finish = (request: Open): void => {
    open.delete(request.cookie);
    answers.set(request.cookie, outcome(request, rules));
  };
  try {
    let at = 0;
    while (stream.length - at >= 16) {
      const magic = stream.readUInt32BE(at);
      if (magic === SIMPLE_REPLY_MAGIC) {
        const request = requestOf(stream, at, open);
        const error = stream.readUInt32BE(at + 4);
        at += 16;
        if (request.command === COMMAND.READ) {
          demand(!rules.structured);
          if (error === 0) {
            if (stream.length - at < request.length) break;
            stream.copy(request.bytes, 0, at);
            request.seen.fill(1);
            at += request.length;
          }
        }
        if (request.command === COMMAND.BLOCK_STATUS) demand(error !== 0);
        request.error ||= error;
        finish(request);
        continue;
      }
      demand(magic === STRUCTURED_REPLY_MAGIC && rules.structured);
      if (stream.length - at < 20) break;
      const request = requestOf(stream, at, open);
      const last = (stream.readUInt16BE(at + 4) & 1) === 1;
      const type = stream.readUInt16BE(at + 6);
      const length = stream.readUInt32BE(at + 16);
      const payload = stream.subarray(at + 20, at + 20 + length);
      takeChunk(request, type, length, last, payload, rules);
      if (payload.length < length) break;
      at += 20 + length;
      if (last) finish(request);
    }
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    return { answers, broken: true };
  }
  return { answers, broken: false };
}

function demand(condition: boolean): asserts condition {
  if (!condition) throw new Broken();
}

function requestOf(stream: Buffer, at: number, open: ReadonlyMap<number, Open>): Open {
  const request = open.get(Number(stream.readBigUInt64BE(at + 8)));
  demand(request !== undefined);
  return request;
}

/** @param payload what there is of it, which may be less than `length` */
function takeChunk(
  request: Open,
  type: number,
  length: number,
  last: boolean,
  payload: Buffer,
  rules: OracleRules,
): void {
  const has = (count: number): boolean => payload.length >= count;
  const offset = has(8) ? Number(payload.readBigUInt64BE(0)) - request.offset : 0;
  if (type >= 0x8000) {
    const withOffset = type === CHUNK.ERROR_OFFSET;
    demand(length >= (withOffset ? 14 : 6) && length <= 8192);
    if (payload.length < length) return;
    const text = payload.readUInt16BE(4);
    demand(text <= 4096 && 6 + text + (withOffset ? 8 : 0) <= length && payload.readUInt32BE(0) !== 0);
    const at = withOffset ? Number(payload.readBigUInt64BE(6 + text)) : undefined;
    if (at !== undefined) demand(at >= request.offset && at < request.offset + request.length);
    if (request.error !== 0) return;
    request.error = payload.readUInt32BE(0);
    request.errorAt = at;
  } else if (type === CHUNK.NONE) {
    demand(length === 0 && last);
  } else if (type === CHUNK.OFFSET_DATA) {
    demand(request.command === COMMAND.READ && length > 8 && length - 8 <= request.length);
    if (!has(8)) return;
    cover(request, offset, length - 8);
    payload.copy(request.bytes, offset, 8);
  } else if (type === CHUNK.OFFSET_HOLE) {
    demand(request.command === COMMAND.READ && length === 12);
    if (!has(12)) return;
    cover(request, offset, payload.readUInt32BE(8));
    request.bytes.fill(0, offset, offset + payload.readUInt32BE(8));
  } else {
    demand(type === CHUNK.BLOCK_STATUS && request.command === COMMAND.BLOCK_STATUS);
    demand(length >= 12 && length % 8 === 4 && length <= 4 + 8 * 2 ** 20);
    if (!has(4)) return;
    const context = payload.readUInt32BE(0);
    demand(rules.contexts.has(context) && !request.status.has(context));
    const runs: number[][] = [];
    let told = 0;
    // Extents are looked at in portions of 512, each when it is there.
    const whole = Math.min(
      length,
      payload.length < length ? 4 + Math.floor((payload.length - 4) / 4096) * 4096 : length,
    );
    for (let at = 4; at + 8 <= whole; at += 8) {
      const run = payload.readUInt32BE(at);
      demand(run > 0 && told < request.length && request.offset + told + run <= rules.exportLength);
      told += run;
      runs.push([run, payload.readUInt32BE(at + 4)]);
    }
    request.status.set(context, runs);
  }
}

function cover(request: Open, start: number, length: number): void {
  demand(length > 0 && start >= 0 && start + length <= request.length);
  const { errorAt } = request;
  if (errorAt !== undefined) demand(errorAt - request.offset < start || errorAt - request.offset >= start + length);
  demand(!request.seen.subarray(start, start + length).includes(1));
  request.seen.fill(1, start, start + length);
}

function outcome(request: Open, rules: OracleRules): OracleAnswer {
  if (request.error !== 0) return { error: request.error };
  if (request.command === COMMAND.READ) {
    demand(!request.seen.includes(0));
    return { data: request.bytes };
  }
  if (request.command !== COMMAND.BLOCK_STATUS) return "done";
  const told: string[] = [];
  for (const [id, name] of rules.contexts) {
    const runs = request.status.get(id);
    demand(runs !== undefined);
    told.push(`${name}: ${merged(runs)}`);
  }
  return { status: told.sort().join("; ") };
}

/** Neighbours of one status as one. */
function merged(runs: readonly number[][]): string {
  const joined: [number, number][] = [];
  for (const [length = 0, flags = 0] of runs) {
    const last = joined.at(-1);
    if (last?.[1] === flags) last[0] += length;
    else joined.push([length, flags]);
  }
  return joined.map((run) => run.join("/")).join(" ");
}
