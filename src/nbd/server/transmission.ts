/**
 * The transmission phase of one connection: requests in, in whatever pieces they arrive, replies out, in whatever order they are
 * ready.
 *
 * `receive` goes through all that has come. What can be answered on the spot is, and goes out with one write at the end. A
 * request is taken up only when there is room for it: at most `MOST_REQUESTS` under way, and as many bytes as `Room` allows. When
 * there is none, or the client does not take its replies, parsing stops in the middle of the chunk, the socket is paused, and
 * goes on from there. The payload of a write is carried out in pieces as it arrives, so that no request needs more
 * memory than a piece; of one whose client goes away in the middle, the pieces that came are written, as by a disk that loses power.
 *
 * After a wrong magic nothing can be trusted: the connection ends.
 */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, NBD_ERROR, REQUEST_BYTES } from "../protocol.ts";
import type { ContextName } from "./contexts.ts";
import { Executor } from "./executor.ts";
import { isReadOnly, type NbdExport } from "./exports.ts";
import type { Link } from "./link.ts";
import type { Operation } from "./operation.ts";
import { Outbox, type OutboxMemory } from "./outbox.ts";
import { viewOf } from "./reply-codec.ts";
import { decodeRequest, newRequestHeader, PIECE, type Refusal, refusalOf, type Terms } from "./request.ts";
import { Room, type SharedRoom } from "./room.ts";
import type { Traffic } from "./traffic.ts";

const MOST_REQUESTS = 64;
/** Bytes that the client has not taken before no more are made. */
const MOST_UNSENT = 4 * 1024 * 1024;
/** Less of a payload is received with what follows it, and copied. */
const LEAST_PLACED = 16 * 1024;
/** Longer reads are never answered on the spot: they keep the others waiting. */
const MOST_NOW = 64 * 1024;

/** What a client has negotiated. */
export interface Negotiated {
  readonly served: NbdExport;
  /** Size of the export, as the client was told. */
  readonly length: number;
  readonly structured: boolean;
  readonly contexts: readonly ContextName[];
}

export interface TransmissionOptions extends Negotiated {
  readonly link: Link;
  readonly memory: OutboxMemory;
  readonly shared: SharedRoom;
  readonly clock: Clock;
  /** Where what is answered is counted. */
  readonly traffic: Traffic;
  readonly onError: (error: unknown) => void;
}

/** The payload of a write that is arriving, or that is thrown away. */
interface Payload {
  readonly operation: Operation;
  /** The answer when it is not to be carried out. */
  readonly refusal: Refusal | undefined;
  /** Bytes still to come. */
  left: number;
  /** Bytes of the piece at hand, for which there is room; 0 between pieces. */
  size: number;
  /** Where the piece is put together, and how much of it is there. */
  piece: Buffer | undefined;
  filled: number;
}

export class Transmission {
  readonly #options: TransmissionOptions;
  readonly #terms: Terms;
  readonly #room: Room;
  readonly #outbox: Outbox;
  readonly #executor: Executor;
  readonly #gone = new AbortController();
  readonly #pending = new Set<Operation>();
  readonly #request = newRequestHeader();
  /** A header that came in two chunks. */
  readonly #split = Buffer.alloc(REQUEST_BYTES);
  readonly #splitView = viewOf(this.#split);
  #splitFill = 0;
  #payload: Payload | undefined;
  /** What waits for room; true when it need not wait any more. */
  #waiting: (() => boolean) | undefined;
  #chunk: Buffer = Buffer.alloc(0);
  #view: DataView = this.#splitView;
  #at = 0;
  /** When this turn began. */
  #now = 0;
  #paused = false;
  #retrying: NodeJS.Immediate | undefined;
  /** The client has said that nothing more comes. */
  #leaving = false;
  /** Every further request is answered with ESHUTDOWN. */
  #closing = false;
  #over = false;

  constructor(options: TransmissionOptions) {
    const { link, served, length, structured, contexts, memory, shared, clock, traffic, onError } = options;
    this.#options = options;
    this.#terms = {
      exportName: served.name,
      length,
      readOnly: isReadOnly(served),
      structured,
      caches: served.node.cache !== undefined,
      hasContexts: contexts.length > 0,
    };
    const again = (): void => this.#retry();
    this.#room = new Room(shared, again);
    this.#outbox = new Outbox(link, memory, this.#room, again);
    this.#executor = new Executor({
      served,
      structured,
      contexts,
      outbox: this.#outbox,
      buffers: memory.buffers,
      room: this.#room,
      clock,
      signal: this.#gone.signal,
      traffic,
      onDone: (operation) => this.#done(operation),
      onError,
    });
  }

  /** Whether the client has said that it leaves. */
  get leaving(): boolean {
    return this.#leaving;
  }

  /** Requests that have not been answered yet. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Where the next bytes go when they are known to be the payload of a large write. */
  place(): Buffer | undefined {
    const { piece, filled = 0 } = this.#payload ?? {};
    const useful = piece !== undefined && piece.length - filled >= LEAST_PLACED && this.#at === this.#chunk.length;
    return useful ? piece.subarray(filled) : undefined;
  }

  /** Takes bytes from the client, which are valid during the call, unless they lie where `place` said. */
  receive(chunk: Buffer): void {
    if (this.#over || this.#leaving) return;
    const payload = this.#payload;
    if (payload?.piece !== undefined && chunk.buffer === payload.piece.buffer) payload.filled += chunk.length;
    // What is left over is only there when more was on its way as the socket was paused.
    else if (this.#at < this.#chunk.length) this.#use(Buffer.concat([this.#chunk.subarray(this.#at), chunk]));
    else this.#use(chunk);
    this.#run();
    if (this.#at < this.#chunk.length) this.#use(Buffer.from(this.#chunk.subarray(this.#at)));
  }

  #use(chunk: Buffer): void {
    this.#chunk = chunk;
    this.#at = 0;
    this.#view = viewOf(chunk);
  }

  #run(): void {
    const { clock, link, traffic } = this.#options;
    this.#now = clock.now();
    const waits = !this.#goOn();
    this.#outbox.flush();
    traffic.sentReads(clock, this.#now);
    if (this.#over) return;
    if (waits && !this.#paused) link.pause();
    else if (!waits && this.#paused) link.resume();
    this.#paused = waits;
    this.#endIfDone();
  }

  /** Goes through what has come. @returns false when it has to wait for room */
  #goOn(): boolean {
    for (;;) {
      if (this.#waiting !== undefined) {
        if (!this.#waiting()) return false;
        this.#waiting = undefined;
      }
      if (this.#over || this.#leaving) return true;
      if (this.#options.link.unsent > MOST_UNSENT) return false;
      if (this.#payload !== undefined) {
        const { filled, size } = this.#payload;
        if (this.#at === this.#chunk.length && (size === 0 || filled < size)) return true;
        this.#takePayload(this.#payload);
      } else {
        if (!this.#takeHeader()) return true;
        this.#dispatch();
      }
    }
  }

  /** Decodes the next header into `#request`. @returns false when it has not come yet, or was none */
  #takeHeader(): boolean {
    const here = this.#chunk.length - this.#at;
    let view = this.#view;
    let at = this.#at;
    if (this.#splitFill > 0 || here < REQUEST_BYTES) {
      const taken = Math.min(here, REQUEST_BYTES - this.#splitFill);
      this.#chunk.copy(this.#split, this.#splitFill, at, at + taken);
      this.#splitFill += taken;
      this.#at += taken;
      if (this.#splitFill < REQUEST_BYTES) return false;
      this.#splitFill = 0;
      view = this.#splitView;
      at = 0;
    } else this.#at += REQUEST_BYTES;
    if (decodeRequest(view, at, this.#request)) return true;
    const message = `A client of export '${this.#terms.exportName}' sent what is no request`;
    this.#options.onError(new StreamdiskError("protocol", message, { node: this.#options.served.node.name }));
    this.gone();
    this.#options.link.destroy();
    return false;
  }

  #dispatch(): void {
    const request = this.#request;
    const { command, length } = request;
    if (command === COMMAND.DISC) {
      this.#leaving = true;
      return;
    }
    const refusal = this.#closing ? this.#shutDown() : refusalOf(request, this.#terms);
    if (command === COMMAND.WRITE && length > 0) this.#beginWrite(this.#executor.operation(request), refusal);
    else if (refusal !== undefined) this.#executor.answer(request, refusal);
    else if (command === COMMAND.READ) {
      // There is no chunk for data of no bytes: a read of nothing has an end and no more.
      if (length > 0 && length <= MOST_NOW && this.#executor.readNow(request)) return;
      const operation = this.#executor.operation(request);
      this.#take(operation, () => this.#beginPieces(operation));
    } else if (length === 0 && command !== COMMAND.FLUSH) this.#executor.answer(request);
    else {
      const operation = this.#executor.operation(request);
      this.#take(operation, () => {
        this.#executor.perform(operation);
        return true;
      });
    }
  }

  /** Takes an operation up when there may be one more. @param begin says whether it has begun all of it */
  #take(operation: Operation, begin: () => boolean): void {
    operation.since = this.#now;
    this.#waiting = () => {
      if (!this.#pending.has(operation)) {
        if (this.#pending.size >= MOST_REQUESTS) return false;
        this.#pending.add(operation);
      }
      return begin();
    };
  }

  #beginPieces(operation: Operation): boolean {
    while (!operation.launched) {
      const length = operation.nextPiece(this.#terms.structured);
      if (!this.#room.take(length)) return false;
      this.#executor.readPiece(operation, length);
    }
    if (operation.done) this.#executor.settle(operation);
    return true;
  }

  #beginWrite(operation: Operation, refusal: Refusal | undefined): void {
    const payload = { operation, refusal, left: operation.length, size: 0, piece: undefined, filled: 0 };
    if (refusal !== undefined) {
      this.#payload = payload;
      return;
    }
    this.#take(operation, () => {
      // Until all of the payload has come there is no answer, also after an error.
      this.#executor.hold(operation);
      this.#payload = payload;
      return true;
    });
  }

  #takePayload(payload: Payload): void {
    const { operation, refusal } = payload;
    if (refusal !== undefined || operation.error !== undefined) {
      this.#room.give(payload.size);
      this.#endPiece(payload);
      const thrownAway = Math.min(payload.left, this.#chunk.length - this.#at);
      this.#at += thrownAway;
      payload.left -= thrownAway;
    } else {
      if (payload.size === 0 && !this.#takeRoom(payload)) return;
      const data = this.#takePiece(payload);
      if (data === undefined) return;
      this.#executor.writePiece(operation, data);
      this.#endPiece(payload);
    }
    if (payload.left > 0) return;
    this.#payload = undefined;
    if (refusal !== undefined) this.#executor.answer(operation, refusal);
    else {
      operation.since = this.#now;
      this.#executor.release(operation);
    }
  }

  #takeRoom(payload: Payload): boolean {
    const size = Math.min(payload.left, PIECE);
    const take = (): boolean => {
      if (!this.#room.take(size)) return false;
      payload.size = size;
      return true;
    };
    if (take()) return true;
    this.#waiting = take;
    return false;
  }

  /** @returns the piece, once all of it has come */
  #takePiece(payload: Payload): Buffer | undefined {
    const { size } = payload;
    const from = this.#at;
    payload.piece ??= this.#options.memory.buffers.take(size);
    const taken = Math.min(this.#chunk.length - from, size - payload.filled);
    this.#chunk.copy(payload.piece, payload.filled, from, from + taken);
    this.#at += taken;
    payload.filled += taken;
    return payload.filled === size ? payload.piece : undefined;
  }

  #endPiece(payload: Payload): void {
    payload.left -= payload.filled;
    payload.size = 0;
    payload.piece = undefined;
    payload.filled = 0;
  }

  #done(operation: Operation): void {
    this.#pending.delete(operation);
    this.#retry();
    this.#endIfDone();
  }

  /** There may be room now. */
  #retry(): void {
    if (!this.#paused || this.#over) return;
    this.#retrying ??= setImmediate(() => {
      this.#retrying = undefined;
      if (!this.#over) this.#run();
    });
  }

  #shutDown(): Refusal {
    return {
      value: NBD_ERROR.ESHUTDOWN,
      message: `Export '${this.#terms.exportName}' is being closed`,
    };
  }

  /** Answers what is under way, and refuses what comes from now on; then ends the connection. */
  close(): void {
    this.#closing = true;
    this.#endIfDone();
  }

  /** Answers what is still under way with an error, and ends the connection. */
  giveUp(): void {
    if (this.#over) return;
    for (const operation of this.#pending) this.#executor.abandon(operation, this.#shutDown());
    this.#end();
  }

  #endIfDone(): void {
    if (this.#over || this.#pending.size > 0) return;
    if (this.#leaving || this.#closing) this.#end();
  }

  #end(): void {
    this.#outbox.flush();
    this.gone();
    this.#options.link.end();
  }

  /** Nobody is to be answered any more. */
  gone(): void {
    if (this.#over) return;
    this.#over = true;
    for (const operation of this.#pending) operation.answered = true;
    // What a half of a piece took is within the connection's own share, which nobody misses.
    this.#payload = undefined;
    this.#outbox.drop();
    this.#gone.abort();
    this.#room.leave();
  }
}
