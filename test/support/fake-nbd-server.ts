/**
 * An NBD server that does what a test's script says, right or wrong. Unscripted it is a plain, right one: an export of
 * pseudo-random bytes that can be read and written, in memory, fixed newstyle, structured replies where they are asked for.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHUNK, COMMAND, FLAG, HANDSHAKE, INFO, OPTION, REPLY } from "../../src/nbd/protocol.ts";
import { chunk, contentChunk, simpleReply, statusChunk, uint32, uint64 } from "./nbd-replies.ts";

export interface FakeRequest {
  readonly cookie: number;
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer;
}

export interface FakeServerScript {
  /** @default 1 MiB */
  size?: number;
  /** Says another size than there is content for. */
  claimedSize?: number;
  /** Transmission flags. @default all that a writable export without multi-conn has */
  flags?: number;
  /** @default FIXED_NEWSTYLE and NO_ZEROES */
  handshakeFlags?: number;
  /** Sent in place of the greeting. */
  greeting?: Uint8Array | undefined;
  /** False answers STRUCTURED_REPLY with ERR_UNSUP. @default true */
  structured?: boolean;
  /** False answers INFO and GO with ERR_UNSUP. @default true */
  knowsGo?: boolean;
  /** Minimum, preferred, maximum. */
  blockSizes?: readonly [number, number, number];
  /** Metadata contexts on offer, by the number that they get. */
  contexts?: ReadonlyMap<number, string>;
  /** Extents of the whole export in the first context: length and status. @default one of data */
  extents?: readonly (readonly [number, number])[];
  /** Sees each option first. @returns true when it has dealt with it */
  option?: (option: number, data: Buffer, peer: FakePeer) => boolean;
  /** Sees each request first. @returns true when it has dealt with it */
  request?: (request: FakeRequest, peer: FakePeer) => boolean;
}

const PLAIN_FLAGS =
  FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_CACHE;

export class FakeNbdServer implements AsyncDisposable {
  /** May be changed while it runs. */
  readonly script: FakeServerScript;
  /** What the export holds. */
  content: Buffer;
  /** Requests of all connections, in the order in which they came. */
  readonly requests: FakeRequest[] = [];
  readonly peers: FakePeer[] = [];
  readonly socketPath: string;
  readonly #directory: string;
  #server: Server | undefined;

  private constructor(script: FakeServerScript) {
    this.script = script;
    this.#directory = mkdtempSync(join(tmpdir(), "streamdisk-fake-nbd-"));
    this.socketPath = join(this.#directory, "s");
    this.content = Buffer.alloc(script.size ?? 1024 * 1024);
    for (let i = 0; i < this.content.length; i++) this.content[i] = (i * 7 + (i >> 8)) & 0xff;
  }

  static async start(script: FakeServerScript = {}): Promise<FakeNbdServer> {
    const server = new FakeNbdServer(script);
    await server.listen();
    return server;
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.socketPath}`;
  }

  /** Connections that are open. */
  get open(): FakePeer[] {
    return this.peers.filter((peer) => !peer.socket.destroyed);
  }

  async listen(): Promise<void> {
    this.#server = createServer({ noDelay: true }, (socket) => {
      const peer = new FakePeer(this, socket);
      this.peers.push(peer);
      // A client that is done with us just goes.
      peer.serve().catch(() => socket.destroy());
    });
    this.#server.listen(this.socketPath);
    await once(this.#server, "listening");
  }

  /** Cuts every connection, and listens no more. */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = once(server, "close");
    server.close();
    this.cut();
    await closed;
  }

  /** Cuts every connection. */
  cut(): void {
    for (const peer of this.peers) peer.socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** The server's end of a connection. */
export class FakePeer {
  readonly server: FakeNbdServer;
  readonly socket: Socket;
  structured = false;
  contexts: ReadonlyMap<number, string> = new Map();
  readonly #bytes: AsyncIterator<Buffer>;
  #have: Buffer = Buffer.alloc(0);

  constructor(server: FakeNbdServer, socket: Socket) {
    this.server = server;
    this.socket = socket;
    socket.on("error", () => {});
    this.#bytes = socket[Symbol.asyncIterator]();
  }

  get #script(): FakeServerScript {
    return this.server.script;
  }

  send(...pieces: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(pieces));
  }

  async receive(count: number): Promise<Buffer> {
    while (this.#have.length < count) {
      const { value, done } = await this.#bytes.next();
      if (done) throw new Error("The client has gone");
      this.#have = Buffer.concat([this.#have, value]);
    }
    const bytes = this.#have.subarray(0, count);
    this.#have = this.#have.subarray(count);
    return bytes;
  }

  optionReply(option: number, type: number, payload: Uint8Array = Buffer.alloc(0)): void {
    this.send(Buffer.from("0003e889045565a9", "hex"), uint32(option), uint32(type), uint32(payload.length), payload);
  }

  infoExport(): Buffer {
    return Buffer.concat([uint16(INFO.EXPORT), uint64(this.size), uint16(this.flags)]);
  }

  get size(): number {
    return this.#script.claimedSize ?? this.server.content.length;
  }

  get flags(): number {
    return this.#script.flags ?? PLAIN_FLAGS;
  }

  async serve(): Promise<void> {
    const { greeting, handshakeFlags = HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES } = this.#script;
    this.send(greeting ?? Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT"), uint16(handshakeFlags)]));
    const clientFlags = (await this.receive(4)).readUInt32BE();
    while (!(await this.#option(clientFlags)));
    for (;;) await this.#request();
  }

  /** @returns whether the transmission phase begins */
  async #option(clientFlags: number): Promise<boolean> {
    const header = await this.receive(16);
    const option = header.readUInt32BE(8);
    const data = await this.receive(header.readUInt32BE(12));
    if (this.#script.option?.(option, data, this)) return false;
    const { knowsGo = true, structured = true } = this.#script;
    if (option === OPTION.EXPORT_NAME) {
      const padding = clientFlags & HANDSHAKE.NO_ZEROES ? 0 : 124;
      this.send(uint64(this.size), uint16(this.flags), Buffer.alloc(padding));
      return true;
    }
    if ((option === OPTION.GO || option === OPTION.INFO) && knowsGo) return this.#go(option);
    if (option === OPTION.STRUCTURED_REPLY && structured) {
      this.structured = true;
      this.optionReply(option, REPLY.ACK);
    } else if (option === OPTION.SET_META_CONTEXT || option === OPTION.LIST_META_CONTEXT) {
      this.contexts = this.#script.contexts ?? new Map();
      for (const [id, name] of this.contexts)
        this.optionReply(option, REPLY.META_CONTEXT, Buffer.concat([uint32(id), Buffer.from(name)]));
      this.optionReply(option, REPLY.ACK);
    } else if (option === OPTION.LIST) {
      this.optionReply(option, REPLY.SERVER, Buffer.concat([uint32(4), Buffer.from("disk"), Buffer.from("a disk")]));
      this.optionReply(option, REPLY.SERVER, uint32(0));
      this.optionReply(option, REPLY.ACK);
    } else if (option === OPTION.ABORT) {
      this.optionReply(option, REPLY.ACK);
      this.socket.end();
    } else {
      this.optionReply(option, REPLY.ERR_UNSUP);
    }
    return false;
  }

  #go(option: number): boolean {
    const { blockSizes } = this.#script;
    this.optionReply(option, REPLY.INFO, this.infoExport());
    if (blockSizes) {
      this.optionReply(option, REPLY.INFO, Buffer.concat([uint16(INFO.BLOCK_SIZE), ...blockSizes.map(uint32)]));
    }
    this.optionReply(option, REPLY.ACK);
    return option === OPTION.GO;
  }

  async #request(): Promise<void> {
    const header = await this.receive(28);
    const command = header.readUInt16BE(6);
    const length = header.readUInt32BE(24);
    const request: FakeRequest = {
      cookie: Number(header.readBigUInt64BE(8)),
      command,
      flags: header.readUInt16BE(4),
      offset: Number(header.readBigUInt64BE(16)),
      length,
      data: command === COMMAND.WRITE ? await this.receive(length) : Buffer.alloc(0),
    };
    this.server.requests.push(request);
    if (this.#script.request?.(request, this)) return;
    this.answer(request);
  }

  /** Does what was asked for and answers as it should be. */
  answer(request: FakeRequest): void {
    const { command, cookie, offset, length, data } = request;
    const { content } = this.server;
    if (command === COMMAND.DISC) {
      this.socket.end();
    } else if (command === COMMAND.READ) {
      const bytes = content.subarray(offset, offset + length);
      if (this.structured) this.send(contentChunk(cookie, offset, bytes, true));
      else this.send(simpleReply(cookie), bytes);
    } else if (command === COMMAND.BLOCK_STATUS) {
      this.#answerStatus(request);
    } else {
      if (command === COMMAND.WRITE) content.set(data, offset);
      if (command === COMMAND.WRITE_ZEROES || command === COMMAND.TRIM)
        content.subarray(offset, offset + length).fill(0);
      this.send(simpleReply(cookie));
    }
  }

  #answerStatus({ cookie, offset, length }: FakeRequest): void {
    const all = this.#script.extents ?? [[this.server.content.length, 0] as const];
    let at = 0;
    const runs: [number, number][] = [];
    for (const [size, flags] of all) {
      const from = Math.max(at, offset);
      const to = Math.min(at + size, offset + length);
      at += size;
      if (from < to) runs.push([to - from, flags]);
    }
    for (const [index, id] of [...this.contexts.keys()].entries()) {
      // Depths of 1 everywhere will do.
      this.send(statusChunk(cookie, id, index === 0 ? runs : [[length, 1]]));
    }
    this.send(chunk(cookie, CHUNK.NONE, Buffer.alloc(0), true));
  }
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}
