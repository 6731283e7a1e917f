/**
 * A connection while it is negotiated: exactly so many bytes at a time, one option and its replies at a time.
 *
 * The server speaks only when it is spoken to, so there is never much that was received and not asked for yet: a bound on it
 * is a bound on memory.
 */
import type { ConnectionOptions } from "node:tls";
import { StreamdiskError } from "../../errors/index.ts";
import {
  MAX_STRING,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  REPLY,
  REPLY_ERROR_BIT,
} from "../protocol.ts";
import { encodeOption } from "./options.ts";
import { plainText } from "./server-error.ts";
import type { NbdSocket } from "./socket.ts";

/** A name and a description, each with its length, and room for what a later protocol may add. */
const LONGEST_REPLY = 4 * MAX_STRING;
/** Replies to one option, in number and in bytes: more exports than a server has. */
const MOST_REPLIES = 65536;
const MOST_REPLY_BYTES = 8 * 1024 * 1024;
const MOST_UNASKED = 1024 * 1024;

/** How an option ended. */
export interface OptionEnd {
  /** ACK, or the number of an error. */
  readonly type: number;
  /** What the server says of an error, for people. */
  readonly text: string;
}

export class HandshakeChannel {
  readonly node: string;
  readonly #socket: NbdSocket;
  #received: Buffer[] = [];
  #bytes = 0;
  #waiting:
    | { readonly count: number; readonly resolve: (bytes: Buffer) => void; readonly reject: (error: unknown) => void }
    | undefined;
  #broken: Error | undefined;

  constructor(socket: NbdSocket, node: string) {
    this.#socket = socket;
    this.node = node;
    socket.listen({
      received: (bytes) => this.#take(bytes),
      broken: (error) => this.#break(error),
    });
  }

  send(bytes: Uint8Array): void {
    this.#socket.send([bytes]);
  }

  /** The next `count` bytes. */
  receive(count: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { count, resolve, reject };
      this.#serve();
    });
  }

  /**
   * Sends an option and takes the replies to it.
   *
   * @param each called with each reply before the last
   * @throws {StreamdiskError} `protocol`
   */
  async ask(
    option: number,
    data: Uint8Array | undefined,
    each: (type: number, payload: Buffer) => void,
  ): Promise<OptionEnd> {
    this.send(encodeOption(option, data));
    let bytes = 0;
    for (let replies = 0; replies < MOST_REPLIES; replies++) {
      const header = await this.receive(OPTION_REPLY_HEADER_BYTES);
      const [high, low, answered] = [header.readUInt32BE(0), header.readUInt32BE(4), header.readUInt32BE(8)];
      if (high !== OPTION_REPLY_MAGIC_HIGH || low !== OPTION_REPLY_MAGIC_LOW) {
        throw this.violation(`'${header.toString("hex", 0, 8)}' where a reply to option ${option} should begin`);
      }
      if (answered !== option) throw this.violation(`a reply to option ${answered} instead of ${option}`);
      const type = header.readUInt32BE(12);
      const length = header.readUInt32BE(16);
      bytes += length;
      if (bytes > MOST_REPLY_BYTES)
        throw this.violation(`more than ${MOST_REPLY_BYTES} bytes in reply to option ${option}`);
      if (length > LONGEST_REPLY) throw this.violation(`${length} bytes in reply to option ${option}`);
      const payload = await this.receive(length);
      if (type === REPLY.ACK) {
        if (length !== 0) throw this.violation(`an acknowledgement of option ${option} with ${length} bytes of data`);
        return { type, text: "" };
      }
      if (type >= REPLY_ERROR_BIT) return { type, text: plainText(payload) };
      each(type, payload);
    }
    throw this.violation(`more than ${MOST_REPLIES} replies to option ${option}`);
  }

  /** Encrypts the connection: what is already there in plain text could be anybody's. */
  async startTls(options: ConnectionOptions): Promise<void> {
    if (this.#bytes > 0) throw this.violation(`${this.#bytes} bytes in plain text after TLS was agreed upon`);
    await this.#socket.startTls(options);
  }

  violation(what: string): StreamdiskError {
    const message = `'${this.node}' breaks the NBD protocol: it sent ${what}`;
    return new StreamdiskError("protocol", message, { node: this.node, operation: "connect" });
  }

  /** The negotiation is over: a server that has said more than it was asked does not know what it says. */
  finish(): void {
    if (this.#bytes > 0) throw this.violation(`${this.#bytes} bytes that nobody asked for`);
  }

  #take(bytes: Buffer): void {
    this.#received.push(Buffer.from(bytes));
    this.#bytes += bytes.length;
    this.#serve();
    if (this.#bytes > MOST_UNASKED) this.#socket.fail(this.violation(`${this.#bytes} bytes that nobody asked for`));
  }

  #break(error: Error): void {
    this.#broken = error;
    this.#serve();
  }

  #serve(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    if (this.#bytes >= waiting.count) {
      const all = this.#received.length === 1 ? this.#received[0]! : Buffer.concat(this.#received);
      this.#received = [all.subarray(waiting.count)];
      this.#bytes -= waiting.count;
      this.#waiting = undefined;
      waiting.resolve(all.subarray(0, waiting.count));
    } else if (this.#broken !== undefined) {
      this.#waiting = undefined;
      waiting.reject(this.#broken);
    }
  }
}
