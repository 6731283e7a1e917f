import assert from "node:assert/strict";
import { test } from "node:test";
import { below, between, oneOf } from "../../../test/support/draw.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { encodeRequest, type RawRequest } from "../../../test/support/raw-nbd-client.ts";
import { rng, seed } from "../../../test/support/seed.ts";
import { type ErrorCode, StreamdiskError } from "../../errors/index.ts";
import { CHUNK, COMMAND, COMMAND_FLAG, NBD_ERROR } from "../protocol.ts";
import { BufferPool } from "./buffer-pool.ts";
import type { ContextName } from "./contexts.ts";
import type { NbdExport, RequestNode } from "./exports.ts";
import type { Link } from "./link.ts";
import { SlabPool } from "./outbox.ts";
import { PIECE } from "./request.ts";
import { SharedRoom } from "./room.ts";
import { Traffic } from "./traffic.ts";
import { Transmission } from "./transmission.ts";

const MIB = 1024 * 1024;
const LENGTH = 64 * MIB;

/** A connection whose client reads, or does not. */
class FakeLink implements Link {
  unsent = 0;
  reads = true;
  paused = false;
  ended = false;
  destroyed = false;
  writes = 0;
  #sent: Buffer[] = [];
  #waiting: (() => void)[] = [];

  send(parts: readonly Buffer[]): void {
    this.writes++;
    // What it keeps is what was there when it was sent: the memory is used again.
    const bytes = Buffer.concat(parts);
    this.#sent.push(bytes);
    if (!this.reads) this.unsent += bytes.length;
  }
  whenTaken(callback: () => void): void {
    this.#waiting.push(callback);
  }
  /** The client takes all that was sent. */
  take(): void {
    this.unsent = 0;
    for (const callback of this.#waiting.splice(0)) callback();
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  end(): void {
    this.ended = true;
  }
  destroy(): void {
    this.destroyed = true;
  }

  /** What was sent since the last look. */
  taken(): Buffer {
    return Buffer.concat(this.#sent.splice(0));
  }
}

/** Memory that answers at once where `now`, and otherwise when it is let. */
class GatedNode extends MemoryNode {
  now = true;
  readonly calls: string[] = [];
  gate: Promise<void> | undefined;
  failing: ((call: string) => unknown) | undefined;

  readNow(offset: number, target: Uint8Array): boolean {
    if (!this.now) return false;
    void super.read(offset, target);
    return true;
  }
  override async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    await this.#call(`read ${offset} ${target.length}`);
    signal?.throwIfAborted();
    await super.read(offset, target);
  }
  override async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#call(`write ${offset} ${data.length}`);
    await super.write(offset, data);
  }
  override async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#call(`zeroes ${offset} ${length}`);
    await super.writeZeroes(offset, length);
  }
  override async discard(offset: number, length: number): Promise<void> {
    await this.#call(`discard ${offset} ${length}`);
    await super.discard(offset, length);
  }
  override async flush(): Promise<void> {
    await this.#call("flush");
  }
  async #call(call: string): Promise<void> {
    this.calls.push(call);
    await this.gate;
    const error = this.failing?.(call);
    if (error !== undefined) throw error;
  }
}

interface Setup {
  readonly structured?: boolean;
  readonly contexts?: readonly ContextName[];
  readonly served?: Partial<NbdExport>;
  readonly shared?: SharedRoom;
}

function begin(node: MemoryNode, { structured = true, contexts = [], served = {}, shared }: Setup = {}) {
  const link = new FakeLink();
  const errors: unknown[] = [];
  const clock = new ManualClock();
  const traffic = new Traffic();
  const transmission = new Transmission({
    served: { name: "vm", readOnly: false, node, ...served },
    length: node.length,
    structured,
    contexts,
    link,
    memory: { slabs: new SlabPool(), buffers: new BufferPool() },
    shared: shared ?? new SharedRoom(),
    clock,
    traffic,
    onError: (error) => errors.push(error),
  });
  const send = (...requests: readonly RawRequest[]) => transmission.receive(Buffer.concat(requests.map(encodeRequest)));
  return { link, transmission, errors, send, clock, traffic };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

interface Answer {
  error: number;
  done: boolean;
  message: string;
  /** The bytes of a read, with holes filled in. */
  data: Buffer;
  /** Lengths of holes. */
  holes: number;
  chunks: number;
}

/** Takes structured (or simple) replies apart, by cookie. */
function answers(bytes: Buffer, requests: readonly RawRequest[], structured = true): Map<number, Answer> {
  const found = new Map<number, Answer>();
  const of = (cookie: number): Answer => {
    const length = requests.find((request) => (request.cookie ?? 1) === cookie)?.length ?? 0;
    const there = found.get(cookie) ?? {
      error: 0,
      done: false,
      message: "",
      data: Buffer.alloc(length),
      holes: 0,
      chunks: 0,
    };
    assert.equal(there.done, false, `a reply to ${cookie} goes on after its end`);
    found.set(cookie, there);
    return there;
  };
  let at = 0;
  while (at < bytes.length) {
    if (bytes.readUInt32BE(at) === 0x67446698) {
      const answer = of(Number(bytes.readBigUInt64BE(at + 8)));
      answer.error = bytes.readUInt32BE(at + 4);
      answer.done = true;
      at += 16;
      const isRead = !structured && answer.error === 0 && answer.data.length > 0;
      if (isRead) {
        bytes.copy(answer.data, 0, at, at + answer.data.length);
        at += answer.data.length;
      }
      continue;
    }
    assert.equal(bytes.readUInt32BE(at), 0x668e33ef);
    const type = bytes.readUInt16BE(at + 6);
    const cookie = Number(bytes.readBigUInt64BE(at + 8));
    const payload = bytes.subarray(at + 20, at + 20 + bytes.readUInt32BE(at + 16));
    at += 20 + payload.length;
    const answer = of(cookie);
    answer.chunks++;
    answer.done = bytes.readUInt16BE(at - payload.length - 16) === 1;
    const start = Number(requests.find((request) => (request.cookie ?? 1) === cookie)?.offset ?? 0);
    if (type === CHUNK.OFFSET_DATA) payload.copy(answer.data, Number(payload.readBigUInt64BE(0)) - start, 8);
    else if (type === CHUNK.OFFSET_HOLE) {
      const from = Number(payload.readBigUInt64BE(0)) - start;
      answer.data.fill(0, from, from + payload.readUInt32BE(8));
      answer.holes += payload.readUInt32BE(8);
    } else if (type === CHUNK.ERROR) {
      answer.error = payload.readUInt32BE(0);
      answer.message = payload.toString("utf8", 6);
      assert.equal(payload.readUInt16BE(4), payload.length - 6);
    }
  }
  return found;
}

const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES } = COMMAND;

test("what is there is answered at once, all of a batch with one write", async () => {
  const node = new GatedNode(LENGTH);
  await node.write(4096, Buffer.alloc(8192, 7));
  const { link, send } = begin(node);
  const requests = Array.from({ length: 32 }, (_, index) => ({
    command: READ,
    cookie: index,
    offset: 4096 + index * 512,
    length: 512,
  }));
  send(...requests);
  assert.equal(link.writes, 1);
  const replies = answers(link.taken(), requests);
  assert.equal(replies.size, 32);
  for (const [cookie, { data, done, error }] of replies) {
    assert.deepEqual([done, error, data.every((byte) => byte === (cookie < 16 ? 7 : 0))], [true, 0, true]);
  }
});

test("a read that has to wait delays nobody", async () => {
  const node = new GatedNode(LENGTH);
  const { link, send } = begin(node);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  node.now = false;
  const late = { command: READ, cookie: 1, offset: 0, length: 4096 };
  send(late);
  node.now = true;
  const soon = { command: READ, cookie: 2, offset: 8192, length: 4096 };
  send(soon);
  assert.deepEqual([...answers(link.taken(), [soon]).keys()], [2]);
  open.resolve();
  await settle();
  assert.deepEqual([...answers(link.taken(), [late]).keys()], [1]);
});

for (const structured of [true, false]) {
  test(`whatever pieces requests come in, what is written is read (${structured ? "structured" : "simple"}, seed ${seed})`, async () => {
    const random = rng(`transmission ${structured}`);
    for (const size of [1, 2, 27, 28, 29, 4096, 65536, Number.POSITIVE_INFINITY]) {
      const node = new GatedNode(4 * MIB);
      node.now = random() < 0.5;
      const model = Buffer.alloc(node.length);
      const { link, transmission } = begin(node, { structured });
      for (let round = 0; round < (size < 100 ? 4 : 12); round++) {
        const most = size < 100 ? 3000 : 3 * MIB;
        const offset = below(random, node.length - 2);
        const length = between(random, 1, Math.min(most, node.length - offset));
        const data = Buffer.alloc(length, between(random, 1, 255));
        const write = { command: WRITE, cookie: 1, offset, data, flags: oneOf(random, [0, COMMAND_FLAG.FUA]) };
        const read = { command: READ, cookie: 2, offset: Math.max(0, offset - 5), length: Math.min(length, 2 * MIB) };
        data.copy(model, offset);
        for (const request of [write, read]) {
          const bytes = encodeRequest(request);
          for (let at = 0; at < bytes.length; at += size) {
            // As the socket's buffer, it is used again.
            const chunk = Buffer.from(bytes.subarray(at, Math.min(bytes.length, at + size)));
            transmission.receive(chunk);
            chunk.fill(0xee);
          }
          await settle();
          const answer = answers(link.taken(), [request], structured).get(request.cookie)!;
          assert.deepEqual([answer.error, answer.done], [0, true]);
          if (request === read) {
            assert.deepEqual(Buffer.compare(answer.data, model.subarray(read.offset, read.offset + read.length)), 0);
          }
        }
      }
    }
  });
}

test("what the kernel puts straight into a piece is written like the rest", async () => {
  const node = new GatedNode(LENGTH);
  const { link, transmission } = begin(node);
  const data = Buffer.from(Array.from({ length: 2.5 * MIB }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
  const bytes = encodeRequest({ command: WRITE, offset: 12345, data });
  let at = 0;
  let placed = 0;
  while (at < bytes.length) {
    const place = transmission.place() ?? Buffer.alloc(65536);
    assert.ok(place.length > 0);
    if (place.length !== 65536) placed++;
    const count = bytes.copy(place, 0, at, at + Math.min(place.length, 200_000));
    transmission.receive(place.subarray(0, count));
    at += count;
  }
  await settle();
  assert.ok(placed > 5);
  assert.equal(answers(link.taken(), [{ command: WRITE }]).get(1)!.error, 0);
  const read = Buffer.alloc(data.length);
  await node.read(12345, read);
  assert.equal(Buffer.compare(read, data), 0);
  assert.deepEqual(node.calls.slice(0, 3), [
    `write 12345 ${PIECE}`,
    `write ${12345 + PIECE} ${PIECE}`,
    `write ${12345 + 2 * PIECE} ${PIECE / 2}`,
  ]);
});

test("a read of nothing has an end and no data", async () => {
  for (const now of [true, false]) {
    const node = new GatedNode(LENGTH);
    node.now = now;
    const { link, send } = begin(node);
    send({ command: READ, offset: 100, length: 0 });
    await settle();
    const reply = link.taken();
    assert.deepEqual([reply.readUInt16BE(4), reply.readUInt16BE(6), reply.length], [1, CHUNK.NONE, 20]);
  }
});

test("a large read comes in pieces, with holes where there is nothing, and one end", async () => {
  const node = new GatedNode(LENGTH);
  await node.write(2 * MIB + 65536, Buffer.alloc(65536, 9));
  const { link, send } = begin(node);
  const request = { command: READ, offset: 100, length: 4 * MIB };
  send(request);
  await settle();
  const { data, holes, done, error, chunks } = answers(link.taken(), [request]).get(1)!;
  assert.deepEqual([done, error, chunks], [true, 0, 6]);
  assert.equal(holes, 4 * MIB - 65536);
  assert.ok(data.subarray(2 * MIB + 65536 - 100, 2 * MIB + 2 * 65536 - 100).every((byte) => byte === 9));
});

test("unfragmented, or in a simple reply, it is one piece without holes", async () => {
  for (const [structured, flags] of [
    [true, COMMAND_FLAG.DF],
    [false, 0],
  ] as const) {
    const node = new GatedNode(LENGTH);
    const { link, send } = begin(node, { structured });
    const request = { command: READ, offset: 0, length: structured ? MIB : 3 * MIB, flags };
    send(request);
    await settle();
    const answer = answers(link.taken(), [request], structured).get(1)!;
    assert.deepEqual([answer.error, answer.holes, answer.chunks], [0, 0, structured ? 1 : 0]);
    assert.deepEqual(node.calls, [`read 0 ${request.length}`]);
  }
});

test("the first error of a piece is the answer, after all others have ended, and nothing is lost", async () => {
  const node = new GatedNode(LENGTH);
  await node.write(0, Buffer.alloc(4 * MIB, 1));
  node.calls.length = 0;
  node.failing = (call) =>
    call.includes(` ${MIB} `) ? new StreamdiskError("source-lost", "the source is gone") : undefined;
  const { link, send, errors } = begin(node);
  for (const request of [
    { command: READ, offset: 0, length: 4 * MIB },
    { command: WRITE, offset: 0, data: Buffer.alloc(4 * MIB, 2) },
  ]) {
    send(request, { command: READ, cookie: 5, offset: 0, length: 512 });
    await settle();
    const replies = answers(link.taken(), [request, { command: READ, cookie: 5, length: 512 }]);
    assert.equal(replies.get(1)!.error, NBD_ERROR.EIO);
    assert.match(replies.get(1)!.message, /of 4194304 bytes at 0 failed: the source is gone/);
    assert.equal(replies.get(5)!.error, 0);
  }
  assert.equal(errors.length, 2);
});

test("a piece that fails early is not forgotten by those that end late", async () => {
  const node = new MemoryNode(LENGTH);
  await node.write(0, Buffer.alloc(4 * MIB, 1));
  const open = Promise.withResolvers<void>();
  const read = node.read.bind(node);
  node.read = async (offset, target) => {
    if (offset === MIB) throw new StreamdiskError("io", "a bad sector");
    await open.promise;
    for (let turns = offset / MIB; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
    await read(offset, target);
  };
  const { link, send } = begin(node);
  const request = { command: READ, offset: 0, length: 4 * MIB };
  send(request);
  await settle();
  assert.equal(link.taken().length, 0);
  open.resolve();
  await settle();
  const { error, done } = answers(link.taken(), [request]).get(1)!;
  assert.deepEqual([error, done], [NBD_ERROR.EIO, true]);
});

test("a node is told which calls are of one request, and which requests of one connection", async () => {
  const node = new GatedNode(LENGTH);
  node.now = false;
  await node.write(0, Buffer.alloc(4 * MIB, 1));
  let connections = 0;
  const asked: (readonly [connection: number, request: number, call: string])[] = [];
  const connect = () => {
    const connection = ++connections;
    let requests = 0;
    return (): RequestNode => {
      const request = ++requests;
      const note = (call: string) => asked.push([connection, request, call]);
      return {
        read: (offset, target) => node.read(offset, target).finally(() => note("read")),
        write: (offset, data) => node.write(offset, data).finally(() => note("write")),
        flush: () => node.flush().finally(() => note("flush")),
        writeZeroes: () => assert.fail(),
        discard: () => assert.fail(),
      };
    };
  };
  const [one, other] = [begin(node, { served: { connect } }), begin(node, { served: { connect } })];
  one.send({ command: READ, offset: 0, length: 3 * MIB });
  await settle();
  one.send({ command: WRITE, offset: 0, data: Buffer.alloc(2 * MIB), flags: COMMAND_FLAG.FUA });
  other.send({ command: FLUSH });
  await settle();
  const of = (connection: number) =>
    asked.filter(([at]) => at === connection).map(([, request, call]) => `${request} ${call}`);
  assert.deepEqual(of(1), ["1 read", "1 read", "1 read", "2 write", "2 write", "2 flush"]);
  assert.deepEqual(of(2), ["1 flush"]);
});

test("FUA is durable before it is answered, and a flush is of everything", async () => {
  const node = new GatedNode(LENGTH);
  const { link, send } = begin(node);
  const { FUA } = COMMAND_FLAG;
  for (const [request, calls] of [
    [{ command: WRITE, offset: 512, data: Buffer.alloc(512), flags: FUA }, ["write 512 512", "flush"]],
    [{ command: WRITE_ZEROES, offset: 0, length: 4096, flags: FUA }, ["zeroes 0 4096", "flush"]],
    [{ command: TRIM, offset: 0, length: 4096, flags: FUA }, ["discard 0 4096", "flush"]],
    [{ command: READ, offset: 0, length: 512, flags: FUA }, []],
    [{ command: FLUSH }, ["flush"]],
    [{ command: WRITE, offset: 0, data: Buffer.alloc(0) }, []],
    [{ command: TRIM, offset: 0, length: 0 }, []],
    [{ command: READ, offset: 0, length: 0 }, []],
  ] as const) {
    node.calls.length = 0;
    send(request);
    await settle();
    assert.equal(answers(link.taken(), [request]).get(1)!.error, 0);
    assert.deepEqual(node.calls, calls);
  }
});

test("a flush that fails fails the write that asked for it", async () => {
  const node = new GatedNode(LENGTH);
  node.failing = (call) => (call === "flush" ? new StreamdiskError("no-space", "full") : undefined);
  const { link, send } = begin(node);
  send({ command: WRITE, offset: 0, data: Buffer.alloc(512), flags: COMMAND_FLAG.FUA });
  await settle();
  assert.equal(answers(link.taken(), []).get(1)!.error, NBD_ERROR.ENOSPC);
});

test("zeroes that must take space are written; fast ones are fast, or nothing happens", async () => {
  const node = Object.assign(new GatedNode(LENGTH), { canZeroFast: (offset: number) => offset === 0 });
  const { NO_HOLE, FAST_ZERO } = COMMAND_FLAG;
  const { link, send } = begin(node);
  for (const [flags, offset, calls, error] of [
    [NO_HOLE, 0, [`write 0 ${MIB}`, `write ${MIB} 4096`], 0],
    [FAST_ZERO, 0, [`zeroes 0 ${MIB + 4096}`], 0],
    [FAST_ZERO, 4096, [], NBD_ERROR.ENOTSUP],
    [FAST_ZERO | NO_HOLE, 0, [], NBD_ERROR.ENOTSUP],
  ] as const) {
    node.calls.length = 0;
    send({ command: WRITE_ZEROES, offset, length: MIB + 4096, flags });
    await settle();
    assert.equal(answers(link.taken(), []).get(1)!.error, error);
    assert.deepEqual(node.calls, calls);
  }
});

test("CACHE is what the export makes of it", async () => {
  const cached: string[] = [];
  const cache = async (offset: number, length: number, signal?: AbortSignal): Promise<void> => {
    assert.ok(signal);
    cached.push(`${offset} ${length}`);
  };
  const { link, send } = begin(Object.assign(new GatedNode(LENGTH), { cache }));
  send({ command: CACHE, offset: 4096, length: 32 * MIB });
  await settle();
  assert.equal(answers(link.taken(), []).get(1)!.error, 0);
  assert.deepEqual(cached, [`4096 ${32 * MIB}`]);
});

const codes: readonly (readonly [ErrorCode, number])[] = [
  ["source-lost", NBD_ERROR.EIO],
  ["changed", NBD_ERROR.EIO],
  ["no-space", NBD_ERROR.ENOSPC],
  ["permission", NBD_ERROR.EPERM],
  ["invalid-argument", NBD_ERROR.EINVAL],
  ["unsupported", NBD_ERROR.EINVAL],
  ["shutdown", NBD_ERROR.ESHUTDOWN],
];

test("what goes wrong below is told by the table of errors, with a text where there is room for one", async () => {
  for (const structured of [true, false]) {
    const node = new GatedNode(LENGTH);
    const { link, send } = begin(node, { structured });
    const fails: readonly (readonly [unknown, number])[] = [
      ...codes.map(([code, value]) => [new StreamdiskError(code, `it is ${code}`), value] as const),
      [new Error("a bug"), NBD_ERROR.EIO],
      [new DOMException("stop", "AbortError"), NBD_ERROR.ESHUTDOWN],
    ];
    for (const [error, value] of fails) {
      node.failing = () => error;
      send({ command: TRIM, offset: 512, length: 1024 });
      await settle();
      const answer = answers(link.taken(), [], structured).get(1)!;
      assert.equal(answer.error, value, String(error));
      if (structured) assert.match(answer.message, /^TRIM of 1024 bytes at 512 failed: /);
    }
  }
});

test("a refused write is read past", async () => {
  const { link, send, errors } = begin(new GatedNode(LENGTH), { served: { readOnly: true } });
  const read = { command: READ, cookie: 2, offset: 0, length: 512 };
  send({ command: WRITE, offset: 0, data: Buffer.alloc(3 * MIB, 1) }, read);
  await settle();
  const replies = answers(link.taken(), [read]);
  assert.deepEqual([replies.get(1)!.error, replies.get(2)!.error], [NBD_ERROR.EPERM, 0]);
  assert.equal(errors.length, 1);
});

test("so many requests are taken up, and the rest wait on the wire", async () => {
  const node = new GatedNode(LENGTH);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  node.now = false;
  const { link, send } = begin(node);
  const requests = Array.from({ length: 200 }, (_, cookie) => ({
    command: READ,
    cookie,
    offset: cookie * 512,
    length: 512,
  }));
  send(...requests);
  await settle();
  assert.deepEqual([node.calls.length, link.paused], [64, true]);
  open.resolve();
  await settle();
  assert.deepEqual([node.calls.length, link.paused], [200, false]);
  assert.equal(answers(link.taken(), requests).size, 200);
});

test("a client that takes no replies makes the server hold a few MiB and no more", async () => {
  for (const now of [true, false]) {
    const node = new GatedNode(LENGTH);
    await node.write(0, Buffer.alloc(40 * MIB, 3));
    node.now = now;
    node.calls.length = 0;
    const { link, send } = begin(node);
    link.reads = false;
    const length = now ? 64 * 1024 : 32 * MIB;
    const count = now ? 500 : 6;
    send(...Array.from({ length: count }, (_, cookie) => ({ command: READ, cookie, offset: 0, length })));
    await settle();
    assert.ok(link.paused);
    assert.ok(link.unsent < 70 * MIB, `${link.unsent} bytes are held`);
    if (now) assert.ok(link.unsent < 5 * MIB, `${link.unsent} bytes are held`);
    for (let round = 0; round < 1000 && link.paused; round++) {
      link.taken();
      link.take();
      await settle();
    }
    assert.equal(link.paused, false, "it goes on when they are taken");
  }
});

test("those who hold what all have in common leave each of the others a piece", async () => {
  const shared = new SharedRoom(8 * MIB);
  const node = new GatedNode(LENGTH);
  await node.write(0, Buffer.alloc(40 * MIB, 3));
  const greedy = begin(node, { shared });
  greedy.link.reads = false;
  greedy.send(...Array.from({ length: 3 }, (_, cookie) => ({ command: READ, cookie, offset: 0, length: 32 * MIB })));
  await settle();
  assert.ok(greedy.link.unsent < 12 * MIB, `${greedy.link.unsent}`);
  const modest = begin(node, { shared });
  const request = { command: READ, offset: 0, length: 20 * MIB };
  modest.send(request);
  await settle();
  assert.ok(answers(modest.link.taken(), [request]).get(1)!.done);
  // What is gone has given back.
  greedy.transmission.gone();
  greedy.link.take();
  await settle();
  assert.ok(shared.take(8 * MIB, () => {}));
});

test("a client that leaves gets its answers first", async () => {
  const node = new GatedNode(LENGTH);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  const { link, send } = begin(node);
  const write = { command: WRITE, offset: 0, data: Buffer.alloc(512, 1) };
  send(write, { command: DISC }, { command: READ, cookie: 9, offset: 0, length: 512 });
  await settle();
  assert.equal(link.ended, false);
  open.resolve();
  await settle();
  assert.equal(link.ended, true);
  assert.deepEqual([...answers(link.taken(), [write]).keys()], [1], "nothing is read behind DISC");
});

test("a client that is gone is not answered, and its reads are called off", async () => {
  const node = new GatedNode(LENGTH);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  node.now = false;
  const { link, send, transmission, errors } = begin(node);
  send({ command: READ, offset: 0, length: 512 }, { command: WRITE, cookie: 2, offset: 0, data: Buffer.alloc(512, 1) });
  await settle();
  transmission.gone();
  open.resolve();
  await settle();
  assert.deepEqual([link.taken().length, errors], [0, []]);
  send({ command: READ, offset: 0, length: 512 });
  assert.equal(node.calls.length, 2);
});

test("of a write whose client goes away in the middle, whole pieces are written", async () => {
  const node = new GatedNode(LENGTH);
  const { transmission } = begin(node);
  const bytes = encodeRequest({ command: WRITE, offset: 0, data: Buffer.alloc(3 * MIB, 5) });
  transmission.receive(bytes.subarray(0, 2.5 * MIB));
  transmission.gone();
  await settle();
  const read = Buffer.alloc(3 * MIB);
  await node.read(0, read);
  assert.deepEqual([read.indexOf(0), read.lastIndexOf(5)], [2 * MIB, 2 * MIB - 1]);
});

test("closing answers what is under way, refuses the rest, and ends", async () => {
  const node = new GatedNode(LENGTH);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  const { link, send, transmission } = begin(node);
  const write = { command: WRITE, offset: 0, data: Buffer.alloc(512, 1) };
  send(write);
  transmission.close();
  assert.equal(link.ended, false);
  const late = [
    { command: READ, cookie: 2, offset: 0, length: 512 },
    { command: WRITE, cookie: 3, offset: 0, data: Buffer.alloc(512, 2) },
  ];
  send(...late);
  await settle();
  const refused = answers(link.taken(), late);
  assert.deepEqual([refused.get(2)!.error, refused.get(3)!.error], [NBD_ERROR.ESHUTDOWN, NBD_ERROR.ESHUTDOWN]);
  open.resolve();
  await settle();
  assert.equal(answers(link.taken(), [write]).get(1)!.error, 0);
  assert.ok(link.ended);
});

test("closing without waiting answers what is under way with an error, once", async () => {
  const node = new GatedNode(LENGTH);
  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  node.now = false;
  const { link, send, transmission } = begin(node);
  send({ command: READ, offset: 0, length: 4096 });
  transmission.close();
  transmission.giveUp();
  assert.equal(answers(link.taken(), []).get(1)!.error, NBD_ERROR.ESHUTDOWN);
  assert.ok(link.ended);
  open.resolve();
  await settle();
  assert.equal(link.taken().length, 0);
});

test("a client without anything under way is let go at once", () => {
  const { link, transmission } = begin(new GatedNode(LENGTH));
  transmission.close();
  assert.ok(link.ended);
});

test("what is no request ends the connection", () => {
  const { link, send, errors } = begin(new GatedNode(LENGTH));
  send({ command: READ, offset: 0, length: 512, magic: 1 });
  assert.ok(link.destroyed);
  assert.equal((errors[0] as StreamdiskError).code, "protocol");
});

test("what is answered is counted, with how long it took; errors are errors only", async () => {
  const node = new GatedNode(LENGTH);
  const { send, clock, traffic, transmission } = begin(node);
  send({ command: READ, offset: 0, length: 4096 }, { command: READ, offset: 8192, length: 512 });
  assert.deepEqual([traffic.readLatency.count, traffic.readBytes], [2, 4608]);

  const open = Promise.withResolvers<void>();
  node.gate = open.promise;
  node.now = false;
  const write = encodeRequest({ command: WRITE, offset: 0, data: Buffer.alloc(MIB, 1) });
  transmission.receive(write.subarray(0, 1000));
  await clock.advance(50);
  transmission.receive(write.subarray(1000));
  send({ command: READ, offset: 0, length: 4096 });
  assert.equal(transmission.inFlight, 2);
  await clock.advance(3);
  open.resolve();
  await settle();
  node.failing = (call) => (call.startsWith("read") ? new StreamdiskError("io", "no") : undefined);
  send({ command: READ, offset: 0, length: 4096 }, { command: READ, offset: LENGTH, length: 1 });
  send({ command: FLUSH, offset: 0, length: 0 }, { command: TRIM, offset: 0, length: 4096 });
  await settle();
  const { readLatency, writeLatency, ...counts } = traffic.figures();
  assert.deepEqual(counts, {
    reads: 3,
    writes: 1,
    flushes: 1,
    other: 1,
    errors: 2,
    readBytes: 8704,
    writtenBytes: MIB,
  });
  assert.equal(traffic.requests, 8);
  // A write takes from when all of it is there.
  for (const most of [readLatency.p99Us, writeLatency.p50Us]) assert.ok(Math.abs(most - 3000) < 200, String(most));
  assert.equal(readLatency.p50Us, 0);
  assert.equal(transmission.inFlight, 0);
});
