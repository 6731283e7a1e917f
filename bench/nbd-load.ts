/**
 * `node bench/nbd-load.ts LOAD`: an NBD client that costs little, so that the server is what is measured. One connection over a Unix
 * socket, simple replies, so many requests under way all the time; LOAD is a `Load` as JSON, and what it prints a `LoadResult`.
 *
 * The headers lie ready, one for each request under way, and only their offsets change; what has come is answered with as many
 * new requests in one write. The data of replies is not looked at, but for the first bytes of those from nbdkit's pattern plugin.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { encodeInfoRequest, encodeOption } from "../src/nbd/client/options.ts";
import {
  COMMAND,
  GREETING_BYTES,
  OPTION,
  OPTION_REPLY_HEADER_BYTES,
  REPLY,
  REPLY_ERROR_BIT,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  setUint64,
} from "../src/nbd/protocol.ts";
import type { Load, LoadResult } from "./load.ts";

const RECEIVE_BUFFER = 1024 * 1024;
const WORD = 8;

class LoadClient {
  readonly #load: Load;
  readonly #socket: Socket;
  readonly #next: () => number | undefined;
  readonly #header = Buffer.alloc(SIMPLE_REPLY_BYTES);
  #headerFill = 0;
  /** Of the reply at hand: whose it is, and the data still to come. */
  #slot = 0;
  #dataLeft = 0;
  /** A request with its payload, ready to be sent, one for each that may be under way. */
  readonly #requests: Buffer[] = [];
  readonly #offsets: number[] = [];
  readonly #sentAt: number[] = [];
  #ready: Buffer[] = [];
  #underWay = 0;
  readonly #latencies: number[] = [];
  #over = false;
  readonly #done = Promise.withResolvers<void>();

  constructor(load: Load, socket: Socket) {
    this.#load = load;
    this.#socket = socket;
    this.#next = offsetsOf(load);
    socket.on("close", () => this.#done.reject(new Error("The server hung up")));
    for (let slot = 0; slot < load.depth; slot++) this.#requests.push(request(load, slot));
  }

  async run(): Promise<LoadResult> {
    const start = performance.now();
    const { seconds } = this.#load;
    const timer = seconds === undefined ? undefined : setTimeout(() => this.#stop(), seconds * 1000);
    for (let slot = 0; slot < this.#load.depth; slot++) this.#prepare(slot, start);
    this.#send();
    await this.#done.promise;
    const elapsed = performance.now() - start;
    clearTimeout(timer);
    const sorted = Float64Array.from(this.#latencies).sort();
    const at = (part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
    return {
      count: sorted.length,
      perSecond: (sorted.length * 1000) / elapsed,
      p50: at(0.5),
      p95: at(0.95),
      p99: at(0.99),
      most: at(1),
    };
  }

  #stop(): void {
    this.#over = true;
  }

  /** Makes the next request of a slot; none when there are no more. */
  #prepare(slot: number, now: number): void {
    const offset = this.#over ? undefined : this.#next();
    if (offset === undefined) {
      this.#over = true;
      return;
    }
    const bytes = this.#requests[slot] as Buffer;
    setUint64(new DataView(bytes.buffer, bytes.byteOffset), 16, offset);
    this.#offsets[slot] = offset;
    this.#sentAt[slot] = now;
    this.#ready.push(bytes);
  }

  #send(): void {
    const ready = this.#ready;
    this.#underWay += ready.length;
    if (this.#load.command === "read") {
      // A slot's header may change before the kernel has taken it.
      if (ready.length > 0) this.#socket.write(Buffer.concat(ready));
    } else {
      this.#socket.cork();
      for (const bytes of ready) this.#socket.write(bytes);
      this.#socket.uncork();
    }
    this.#ready = [];
    if (this.#underWay === 0) this.#done.resolve();
  }

  received(bytes: Buffer): void {
    const now = performance.now();
    let at = 0;
    while (at < bytes.length) {
      if (this.#dataLeft > 0) {
        const count = Math.min(this.#dataLeft, bytes.length - at);
        if (this.#load.pattern === true && this.#dataLeft === this.#load.block) this.#check(bytes, at);
        this.#dataLeft -= count;
        at += count;
      } else {
        const count = Math.min(SIMPLE_REPLY_BYTES - this.#headerFill, bytes.length - at);
        bytes.copy(this.#header, this.#headerFill, at, at + count);
        this.#headerFill += count;
        at += count;
        if (this.#headerFill < SIMPLE_REPLY_BYTES) break;
        this.#takeHeader();
      }
      if (this.#dataLeft > 0) continue;
      this.#underWay--;
      this.#latencies.push(now - (this.#sentAt[this.#slot] as number));
      this.#prepare(this.#slot, now);
    }
    this.#send();
  }

  #takeHeader(): void {
    this.#headerFill = 0;
    const error = this.#header.readUInt32BE(4);
    if (this.#header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || error !== 0) {
      throw new Error(`A request failed: ${this.#header.toString("hex")}`);
    }
    this.#slot = this.#header.readUInt32BE(12);
    this.#dataLeft = this.#load.command === "read" ? this.#load.block : 0;
  }

  /** Where the plugin's bytes come from, each eight of them say their own offset. */
  #check(bytes: Buffer, at: number): void {
    if (at + WORD > bytes.length) return;
    const said = bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4);
    const offset = this.#offsets[this.#slot];
    if (said !== offset) throw new Error(`At ${offset} there is what belongs to ${said}`);
  }
}

function request({ command, block }: Load, slot: number): Buffer {
  const writes = command === "write";
  const bytes = Buffer.allocUnsafeSlow(REQUEST_BYTES + (writes ? block : 0)).fill(slot + 1);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(0, 4);
  bytes.writeUInt16BE(writes ? COMMAND.WRITE : COMMAND.READ, 6);
  bytes.writeUInt32BE(0, 8);
  bytes.writeUInt32BE(slot, 12);
  bytes.writeUInt32BE(block, 24);
  return bytes;
}

/** Where one request after the other goes. Seeded: every server gets the same. */
function offsetsOf({ order, block, from, to, unit = block }: Load): () => number | undefined {
  const count = Math.floor((to - from) / unit);
  const draw = random(count);
  let index = -1;
  if (order === "sequential") return () => from + (++index % count) * unit;
  if (order === "random") return () => from + draw(count) * unit;
  const units = Array.from({ length: count }, (_, at) => at);
  for (let at = count - 1; at > 0; at--) {
    const other = draw(at + 1);
    [units[at], units[other]] = [units[other] as number, units[at] as number];
  }
  return () => (++index < count ? from + (units[index] as number) * unit + draw(unit / block) * block : undefined);
}

/** Whole numbers below a limit (xorshift32). */
function random(seed: number): (below: number) => number {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Enters the transmission phase on the export without a name. */
async function open(load: Load): Promise<LoadResult> {
  let greeted = Buffer.alloc(0);
  let client: LoadClient | undefined;
  const { promise: negotiated, resolve, reject } = Promise.withResolvers<void>();
  const received = (bytes: Buffer): void => {
    if (client !== undefined) {
      client.received(bytes);
      return;
    }
    greeted = Buffer.concat([greeted, bytes]);
    const end = endOfNegotiation(greeted);
    if (end === "refused") reject(new Error(`The export is refused: ${greeted.toString("latin1")}`));
    else if (end) resolve();
  };
  const socket = connect({
    path: load.socket,
    onread: {
      buffer: Buffer.allocUnsafeSlow(RECEIVE_BUFFER),
      callback: (count, buffer) => {
        received((buffer as Buffer).subarray(0, count));
        return true;
      },
    },
  });
  await once(socket, "connect");
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(3);
  socket.write(Buffer.concat([flags, encodeOption(OPTION.GO, encodeInfoRequest("", []))]));
  await negotiated;
  client = new LoadClient(load, socket);
  const result = await client.run();
  socket.destroy();
  return result;
}

/** Whether the last reply to the option has come. */
function endOfNegotiation(bytes: Buffer): boolean | "refused" {
  for (let at = GREETING_BYTES; at + OPTION_REPLY_HEADER_BYTES <= bytes.length; ) {
    const type = bytes.readUInt32BE(at + 12);
    if (type === REPLY.ACK) return true;
    if (type >= REPLY_ERROR_BIT) return "refused";
    at += OPTION_REPLY_HEADER_BYTES + bytes.readUInt32BE(at + 16);
  }
  return false;
}

console.log(JSON.stringify(await open(JSON.parse(process.argv[2] as string) as Load)));
