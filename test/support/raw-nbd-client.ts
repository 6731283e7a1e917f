/** An NBD client that sends exactly what a test says, right or wrong, and takes the replies apart. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { encodeContextQuery, encodeInfoRequest, encodeOption } from "../../src/nbd/client/options.ts";
import type { NbdAddress } from "../../src/nbd/index.ts";
import {
  CHUNK_DONE,
  COMMAND,
  GREETING_BYTES,
  INFO,
  OPTION,
  OPTION_REPLY_HEADER_BYTES,
  REPLY,
  REPLY_ERROR_BIT,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
} from "../../src/nbd/protocol.ts";

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** A simple reply (without its data), or a chunk. */
export interface RawReply {
  readonly cookie: number;
  /** Of a simple reply; undefined for a chunk. */
  readonly error: number | undefined;
  /** Of a chunk. */
  readonly type: number | undefined;
  readonly done: boolean;
  readonly payload: Buffer;
}

export interface RawRequest {
  readonly command: number;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly flags?: number;
  readonly cookie?: number;
  readonly data?: Uint8Array;
  readonly magic?: number;
}

export class RawNbdClient implements AsyncDisposable {
  /** Resolves when the server has ended the connection, however. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  #bytes: Buffer = Buffer.alloc(0);
  #over = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    const ended = (): void => {
      this.#over = true;
      this.#wake?.();
    };
    socket.on("data", (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#wake?.();
    });
    socket.on("error", ended).on("end", ended).on("close", ended);
    this.closed = new Promise((resolve) => {
      socket.once("end", resolve).once("close", () => resolve());
    });
  }

  /** Connects, takes the greeting and sends the flags. */
  static async connect(address: NbdAddress, flags = 3): Promise<RawNbdClient> {
    const client = await RawNbdClient.dial(address);
    await client.take(GREETING_BYTES);
    client.send(uint32(flags));
    return client;
  }

  /** Connects and says nothing. */
  static async dial(address: NbdAddress): Promise<RawNbdClient> {
    const socket = address.unix ? connect(address.socket) : connect(address.port, address.host);
    await once(socket, "connect");
    return new RawNbdClient(socket);
  }

  get socket(): Socket {
    return this.#socket;
  }

  send(...parts: readonly Uint8Array[]): void {
    for (const part of parts) this.#socket.write(part);
  }

  /** The next bytes. @throws {Error} when the connection ends before */
  async take(length: number): Promise<Buffer> {
    while (this.#bytes.length < length) {
      if (this.#over) throw new Error(`The server hung up; ${this.#bytes.length} of ${length} bytes had come`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  /** Sends an option. @returns all replies up to the last one */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    this.send(encodeOption(option, data));
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.optionReply();
      replies.push(reply);
      if (reply.type === REPLY.ACK || reply.type >= REPLY_ERROR_BIT) return replies;
    }
  }

  async optionReply(): Promise<OptionReply> {
    const header = await this.take(OPTION_REPLY_HEADER_BYTES);
    const data = await this.take(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** The type of the last reply to an option. */
  async outcome(option: number, data?: Uint8Array): Promise<number> {
    return (await this.option(option, data)).at(-1)!.type;
  }

  /** Enters the transmission phase. @returns size and flags of the export */
  async go(name = "", options: { readonly structured?: boolean; readonly contexts?: readonly string[] } = {}) {
    if (options.structured ?? true) await this.option(OPTION.STRUCTURED_REPLY);
    if (options.contexts) await this.option(OPTION.SET_META_CONTEXT, encodeContextQuery(name, options.contexts));
    const replies = await this.option(OPTION.GO, encodeInfoRequest(name, []));
    const info = replies.find(({ type, data }) => type === REPLY.INFO && data.readUInt16BE(0) === INFO.EXPORT);
    if (info === undefined) throw new Error(`GO was refused: ${replies.at(-1)?.data}`);
    return { length: Number(info.data.readBigUInt64BE(2)), flags: info.data.readUInt16BE(10) };
  }

  request(request: RawRequest): void {
    this.send(encodeRequest(request));
  }

  async reply(): Promise<RawReply> {
    const magic = await this.take(4);
    if (magic.readUInt32BE(0) === SIMPLE_REPLY_MAGIC) {
      const rest = await this.take(SIMPLE_REPLY_BYTES - 4);
      const cookie = Number(rest.readBigUInt64BE(4));
      return { cookie, error: rest.readUInt32BE(0), type: undefined, done: true, payload: Buffer.alloc(0) };
    }
    const rest = await this.take(STRUCTURED_REPLY_BYTES - 4);
    const payload = await this.take(rest.readUInt32BE(12));
    const done = (rest.readUInt16BE(0) & CHUNK_DONE) !== 0;
    return { cookie: Number(rest.readBigUInt64BE(4)), error: undefined, type: rest.readUInt16BE(2), done, payload };
  }

  /** Sends a request and takes its replies, when no others are under way. */
  async ask(request: RawRequest): Promise<RawReply[]> {
    this.request(request);
    const replies: RawReply[] = [];
    do replies.push(await this.reply());
    while (!replies.at(-1)!.done);
    return replies;
  }

  /** The error that answers a request, in whatever form; 0 for success. */
  async errorOf(request: RawRequest): Promise<number> {
    for (const { error, type, payload } of await this.ask(request)) {
      if (error !== undefined) return error;
      if (type !== undefined && type >= 0x8000) return payload.readUInt32BE(0);
    }
    return 0;
  }

  /** Whether the server still answers. */
  async isServed(length: number): Promise<boolean> {
    return (await this.errorOf({ command: COMMAND.READ, offset: 0, length, cookie: 0xffff })) === 0;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.destroy();
    await this.closed;
  }
}

export function encodeRequest(request: RawRequest): Buffer {
  const { command, offset = 0, data, length = data?.length ?? 0, flags = 0, cookie = 1 } = request;
  const bytes = Buffer.alloc(REQUEST_BYTES);
  bytes.writeUInt32BE(request.magic ?? REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return data === undefined ? bytes : Buffer.concat([bytes, data]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
