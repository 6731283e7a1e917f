/**
 * One connection in the transmission phase: requests go out, replies come in, in any order.
 *
 * Requests of one turn of the event loop go out together. The table of what is in flight is by cookie, and cookies count up:
 * one that has been answered never means anything again.
 *
 * A connection ends once, and hands back what it had not answered: when the peer or the network ends it, when a reply is wrong,
 * when the server says that it is shutting down, and when it is taken for dead: frozen, when it has sent nothing for the time
 * limit although a read or a write waits. What may take longer by its nature (flushes, zeroes, discards, caching) has four
 * times as long, and so has any request while others are answered. One timer looks after all of them.
 */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, NBD_ERROR, REQUEST_BYTES, REQUEST_MAGIC, setUint64 } from "../protocol.ts";
import type { NbdExportInfo } from "./export-info.ts";
import type { Negotiated } from "./handshake.ts";
import { ReplyReader } from "./reply-reader.ts";
import { NbdRequest } from "./request.ts";
import type { NbdSocket } from "./socket.ts";

/** Time limits that a slow command may take, and any other while the server answers others. */
const SLOW = 4;

export interface ConnectionOptions {
  readonly node: string;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/** How a connection ended. */
export interface ConnectionEnd {
  readonly error: Error;
  /** The request whose reply broke the protocol. */
  readonly guilty: NbdRequest | undefined;
  /** The others that were not answered, oldest first. */
  readonly unanswered: readonly NbdRequest[];
  /** Whether it was taken for dead without a word from the other side. */
  readonly frozen: boolean;
}

/** What its owner wants to be told. */
export interface ConnectionOwner {
  /** A reply is complete; `settle` has not been called. */
  answered(request: NbdRequest): void;
  ended(connection: NbdConnection, end: ConnectionEnd): void;
}

export class NbdConnection {
  readonly info: NbdExportInfo;
  /** Whether a reply has come. */
  proved = false;
  readonly #socket: NbdSocket;
  readonly #options: ConnectionOptions;
  readonly #owner: ConnectionOwner;
  readonly #reader: ReplyReader;
  readonly #inFlight = new Map<number, NbdRequest>();
  #cookie = 0;
  #unsent: NbdRequest[] = [];
  #heardAt = 0;
  #watched = false;
  readonly #over = new AbortController();
  #whenIdle: (() => void) | undefined;

  constructor(socket: NbdSocket, negotiated: Negotiated, options: ConnectionOptions, owner: ConnectionOwner) {
    this.info = negotiated.info;
    this.#socket = socket;
    this.#options = options;
    this.#owner = owner;
    this.#reader = new ReplyReader(
      {
        node: options.node,
        exportLength: negotiated.info.length,
        structured: negotiated.info.structuredReplies,
        contexts: negotiated.contexts,
      },
      {
        find: (cookie) => this.#inFlight.get(cookie),
        done: (request) => this.#answered(request),
      },
    );
    socket.listen({
      received: (bytes) => this.#received(bytes),
      broken: (error) => this.#end(error, { frozen: false }),
    });
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  get isOver(): boolean {
    return this.#over.signal.aborted;
  }

  /** @throws why it has ended */
  throwIfOver(): void {
    this.#over.signal.throwIfAborted();
  }

  send(request: NbdRequest): void {
    const now = this.#options.clock.now();
    if (this.#inFlight.size === 0) this.#heardAt = now;
    request.cookie = ++this.#cookie;
    request.sentAt = now;
    this.#inFlight.set(request.cookie, request);
    if (this.#unsent.push(request) === 1) process.nextTick(() => this.#flush());
    if (!this.#watched) void this.#watch();
  }

  /** Resolves when nothing is in flight. */
  idle(): Promise<void> {
    if (this.#inFlight.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#whenIdle = resolve;
    });
  }

  /** Says goodbye ("Terminating the transmission phase") and closes. Nothing may be in flight. */
  async disconnect(): Promise<void> {
    if (this.isOver) return;
    this.#over.abort();
    this.#sayGoodbye();
    await this.#socket.end();
  }

  #sayGoodbye(): void {
    const bytes = Buffer.alloc(REQUEST_BYTES);
    encodeRequest(new DataView(bytes.buffer, bytes.byteOffset), 0, new NbdRequest(COMMAND.DISC, 0, 0));
    this.#socket.send([bytes]);
  }

  #flush(): void {
    const requests = this.#unsent;
    this.#unsent = [];
    if (this.isOver) return;
    const headers = Buffer.allocUnsafe(REQUEST_BYTES * requests.length);
    const view = new DataView(headers.buffer, headers.byteOffset, headers.length);
    const pieces: Uint8Array[] = [];
    let at = 0;
    let sent = 0;
    for (const request of requests) {
      encodeRequest(view, at, request);
      at += REQUEST_BYTES;
      if (request.data === undefined) continue;
      pieces.push(headers.subarray(sent, at), request.data);
      sent = at;
    }
    if (sent < at) pieces.push(headers.subarray(sent));
    this.#socket.send(pieces);
  }

  #received(bytes: Buffer): void {
    if (this.isOver) return;
    this.#heardAt = this.#options.clock.now();
    try {
      this.#reader.feed(bytes);
    } catch (error) {
      // What comes after the end of the connection means nothing.
      if (!this.isOver) this.#end(error as Error, { guilty: this.#reader.current, frozen: false });
    }
  }

  #answered(request: NbdRequest): void {
    this.proved = true;
    if (request.errorValue === NBD_ERROR.ESHUTDOWN) {
      const { node } = this.#options;
      const said = request.errorText === "" ? "" : ` (it says: ${request.errorText})`;
      const message = `The server of '${node}' is shutting down${said}`;
      this.#sayGoodbye();
      this.#end(new StreamdiskError("source-lost", message, { node }), { frozen: false });
      return;
    }
    this.#inFlight.delete(request.cookie);
    this.#owner.answered(request);
    if (this.#inFlight.size === 0) this.#whenIdle?.();
  }

  async #watch(): Promise<void> {
    const { clock, timeoutMs } = this.#options;
    this.#watched = true;
    while (!this.isOver && this.#inFlight.size > 0) {
      const [oldest] = this.#inFlight.values();
      const quick = this.#oldestQuick();
      const lostAt = oldest!.sentAt + SLOW * timeoutMs;
      const frozenAt = quick === undefined ? lostAt : Math.max(quick.sentAt, this.#heardAt) + timeoutMs;
      const left = Math.min(frozenAt, lostAt) - clock.now();
      if (left <= 0) {
        this.#giveUp(lostAt < frozenAt ? oldest! : (quick ?? oldest!));
        break;
      }
      await clock.sleep(left, this.#over.signal);
    }
    this.#watched = false;
  }

  #oldestQuick(): NbdRequest | undefined {
    for (const request of this.#inFlight.values()) if (!request.slow) return request;
    return undefined;
  }

  #giveUp(request: NbdRequest): void {
    const { node, clock } = this.#options;
    const waited = Math.round((clock.now() - request.sentAt) / 100) / 10;
    const message = `'${node}' does not answer: ${request} has waited for ${waited} s`;
    this.#end(new StreamdiskError("source-lost", message, request.context(node)), { frozen: true });
  }

  #end(error: Error, { guilty, frozen }: { guilty?: NbdRequest | undefined; frozen: boolean }): void {
    if (this.isOver) return;
    this.#over.abort(error);
    if (guilty !== undefined) this.#inFlight.delete(guilty.cookie);
    const unanswered = [...this.#inFlight.values()];
    this.#inFlight.clear();
    this.#unsent = [];
    this.#socket.fail(error);
    this.#owner.ended(this, { error, guilty, unanswered, frozen });
    this.#whenIdle?.();
  }
}

/** The header of a request ("Request message"). */
function encodeRequest(view: DataView, at: number, request: NbdRequest): void {
  view.setUint32(at, REQUEST_MAGIC);
  view.setUint16(at + 4, 0);
  view.setUint16(at + 6, request.command);
  setUint64(view, at + 8, request.cookie);
  setUint64(view, at + 16, request.offset);
  view.setUint32(at + 24, request.length);
}
