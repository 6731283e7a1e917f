/**
 * Carries out the requests of one connection on its node, and answers them.
 *
 * A read that its node can answer without waiting is answered in the caller's stack, into the slab, with no object made for it but a
 * view. All else is an `Operation` and promises. Structured replies are used for data, for status and for errors, which have
 * a text then; the success of anything else is a simple reply, which is shorter and always valid.
 */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, COMMAND_FLAG, SIMPLE_REPLY_BYTES, STRUCTURED_REPLY_BYTES } from "../protocol.ts";
import { blockStatus } from "./block-status.ts";
import type { BufferPool } from "./buffer-pool.ts";
import { type ContextName, contextId } from "./contexts.ts";
import type { NbdExport, RequestNode } from "./exports.ts";
import { errorOf, failureOf } from "./failure.ts";
import { Operation } from "./operation.ts";
import type { Outbox } from "./outbox.ts";
import { readPlan } from "./read-plan.ts";
import {
  type Cookie,
  DATA_HEADER_BYTES,
  encodeError,
  encodeStatus,
  HOLE_BYTES,
  putDataHeader,
  putHole,
  putNone,
  putSimple,
  viewOf,
} from "./reply-codec.ts";
import { nameOf, PIECE, type Refusal, type RequestHeader } from "./request.ts";
import type { Room } from "./room.ts";
import type { Traffic } from "./traffic.ts";

/** A longer read asks first what of it is zero. */
const MOST_WITHOUT_HOLES = 64 * 1024;
const ZEROES = Buffer.alloc(PIECE);

export interface ExecutorOptions {
  readonly served: NbdExport;
  readonly structured: boolean;
  readonly contexts: readonly ContextName[];
  readonly outbox: Outbox;
  readonly buffers: BufferPool;
  readonly room: Room;
  readonly clock: Clock;
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal;
  /** Where what is answered is counted. */
  readonly traffic: Traffic;
  /** An operation has been answered, or given up. */
  readonly onDone: (operation: Operation) => void;
  readonly onError: (error: unknown) => void;
}

export class Executor {
  readonly #options: ExecutorOptions;
  readonly #headerBytes: number;
  /** Makes what the next request is carried out on. */
  readonly #nextNode: () => RequestNode;

  constructor(options: ExecutorOptions) {
    this.#options = options;
    this.#headerBytes = options.structured ? DATA_HEADER_BYTES : SIMPLE_REPLY_BYTES;
    const { served } = options;
    this.#nextNode = served.connect?.() ?? (() => served.node);
  }

  /** Takes up a request that cannot be answered on the spot. */
  operation(request: RequestHeader): Operation {
    return new Operation(request, this.#nextNode());
  }

  /** Answers a read on the spot. @returns false when the node would have to wait; nothing has been sent then */
  readNow(request: RequestHeader): boolean {
    const { outbox, served, structured, traffic } = this.#options;
    const { offset, length } = request;
    const header = this.#headerBytes;
    const { bytes, view } = outbox.reserve(header + length);
    const at = outbox.position;
    const target = new Uint8Array(bytes.buffer, bytes.byteOffset + at + header, length);
    if (!served.node.readNow?.(offset, target)) return false;
    if (structured) putDataHeader(view, at, request, true, offset, length);
    else putSimple(view, at, request, 0);
    outbox.commit(header + length);
    traffic.readNow(length);
    return true;
  }

  /** Answers with an error, or, for a reply without content, with success. */
  answer(cookie: Cookie, refusal?: Refusal): void {
    const { outbox, structured, traffic, onError } = this.#options;
    if (refusal === undefined) traffic.other++;
    else {
      traffic.errors++;
      onError(errorOf(refusal));
    }
    if (refusal !== undefined && structured) outbox.append(encodeError(cookie, refusal.value, refusal.message));
    else this.#putSimple(cookie, refusal?.value ?? 0);
    outbox.flushSoon();
  }

  /** Begins the next piece of a read, for whose bytes there is room. */
  readPiece(operation: Operation, length: number): void {
    const offset = operation.position;
    operation.position += length;
    this.#begin(operation, this.#read(operation, offset, length));
  }

  async #read(operation: Operation, offset: number, length: number): Promise<void> {
    const { served, structured, outbox, room } = this.#options;
    let unsent = length;
    try {
      const asks = structured && length > MOST_WITHOUT_HOLES && !operation.has(COMMAND_FLAG.DF);
      const runs = readPlan(offset, length, asks ? await served.node.extents(offset, length) : []);
      const parts = await allOf(
        runs.map((run) => (run.hole ? undefined : this.#readData(operation, run.offset, run.length))),
      );
      if (operation.answered) return;
      // This piece is still counted as under way.
      const last = operation.launched && operation.underWay === 1 && operation.error === undefined;
      for (const [index, run] of runs.entries()) {
        const done = last && index === runs.length - 1;
        const bytes = parts[index] ?? Buffer.alloc(HOLE_BYTES);
        const view = viewOf(bytes);
        if (run.hole) putHole(view, 0, operation, done, run.offset, run.length);
        else if (structured) putDataHeader(view, 0, operation, done, run.offset, run.length);
        else putSimple(view, 0, operation, 0);
        operation.closed ||= done;
        outbox.append(bytes, run.length);
        unsent -= run.length;
      }
      outbox.flushSoon();
    } finally {
      room.give(unsent);
    }
  }

  async #readData({ node }: Operation, offset: number, length: number): Promise<Buffer> {
    const { signal, buffers } = this.#options;
    const bytes = buffers.take(this.#headerBytes + length);
    await node.read(offset, bytes.subarray(this.#headerBytes), signal);
    return bytes;
  }

  /** Keeps an operation from ending until it is released. */
  hold(operation: Operation): void {
    operation.underWay++;
  }

  release(operation: Operation): void {
    this.#ended(operation);
  }

  /** Begins the next piece of a write, for whose bytes there is room. */
  writePiece(operation: Operation, data: Buffer): void {
    const { room, buffers } = this.#options;
    const offset = operation.position;
    operation.position += data.length;
    const written = operation.node.write(offset, data).finally(() => {
      buffers.give(data);
      room.give(data.length);
    });
    this.#begin(operation, written);
  }

  /** Begins a request that has data in neither direction. */
  perform(operation: Operation): void {
    operation.position = operation.end;
    this.#begin(operation, this.#perform(operation));
  }

  async #perform(operation: Operation): Promise<void> {
    const { command, offset, length, node } = operation;
    if (command === COMMAND.FLUSH) await node.flush();
    else if (command === COMMAND.TRIM) await node.discard(offset, length);
    else if (command === COMMAND.WRITE_ZEROES) await this.#writeZeroes(operation);
    else if (command === COMMAND.CACHE) await node.cache?.(offset, length, this.#options.signal);
    else await this.#sendStatus(operation);
  }

  async #writeZeroes(operation: Operation): Promise<void> {
    const { served } = this.#options;
    const { offset, length, end, node } = operation;
    const provisioned = operation.has(COMMAND_FLAG.NO_HOLE);
    if (operation.has(COMMAND_FLAG.FAST_ZERO) && (provisioned || !served.node.canZeroFast?.(offset, length))) {
      throw new StreamdiskError(
        "unsupported",
        `${nameOf(operation)} of '${served.node.name}' would be no faster than writing them`,
      );
    }
    if (!provisioned) return node.writeZeroes(offset, length);
    for (let position = offset; position < end; position += PIECE) {
      await node.write(position, ZEROES.subarray(0, Math.min(PIECE, end - position)));
    }
  }

  async #sendStatus(operation: Operation): Promise<void> {
    const { served, contexts, outbox, clock } = this.#options;
    const { offset, length } = operation;
    const one = operation.has(COMMAND_FLAG.REQ_ONE);
    const status = await blockStatus({ node: served.node, offset, length, contexts, one }, clock);
    if (operation.answered) return;
    let left = status.size;
    for (const [name, runs] of status) outbox.append(encodeStatus(operation, --left === 0, contextId(name), runs));
    operation.closed = true;
    outbox.flushSoon();
  }

  #begin(operation: Operation, doing: Promise<void>): void {
    operation.underWay++;
    doing.then(
      () => this.#ended(operation),
      (error: unknown) => {
        operation.error ??= error ?? new Error("failed for no reason");
        this.#ended(operation);
      },
    );
  }

  #ended(operation: Operation): void {
    operation.underWay--;
    if (operation.done) this.settle(operation);
  }

  /** All pieces have ended: makes durable what has to be, and answers. */
  settle(operation: Operation): void {
    if (operation.answered) return;
    if (operation.error === undefined && operation.mustFlush) {
      operation.mustFlush = false;
      this.#begin(operation, operation.node.flush());
      return;
    }
    operation.answered = true;
    if (!operation.closed) this.#close(operation);
    const { traffic, clock, onDone } = this.#options;
    traffic.answered(operation, clock.now());
    onDone(operation);
  }

  /** Gives an operation up: what is under way goes on, and answers to nobody. */
  abandon(operation: Operation, refusal: Refusal): void {
    operation.answered = true;
    if (!operation.closed) this.answer(operation, refusal);
  }

  #close(operation: Operation): void {
    const { outbox, structured, onError } = this.#options;
    if (operation.error !== undefined) {
      const failure = failureOf(operation.error, operation);
      onError(operation.error);
      const message = `${nameOf(operation)} failed: ${failure.message}`;
      if (structured) outbox.append(encodeError(operation, failure.value, message));
      else this.#putSimple(operation, failure.value);
    } else if (structured && operation.command === COMMAND.READ) {
      outbox.commit(putNone(outbox.reserve(STRUCTURED_REPLY_BYTES).view, outbox.position, operation));
    } else this.#putSimple(operation, 0);
    outbox.flushSoon();
  }

  #putSimple(cookie: Cookie, value: number): void {
    const { outbox } = this.#options;
    outbox.commit(putSimple(outbox.reserve(SIMPLE_REPLY_BYTES).view, outbox.position, cookie, value));
  }
}

/** Waits for all, also after a failure: nothing may be read into memory that has been given back. */
async function allOf<T>(doing: readonly (Promise<T> | undefined)[]): Promise<(T | undefined)[]> {
  const results = await Promise.allSettled(doing);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}
