/** Clients at random: right ones, whose every byte is compared, and bent ones, who must get an answer or the end. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { StreamdiskError } from "../../src/errors/index.ts";
import { encodeContextQuery, encodeInfoRequest, encodeOption } from "../../src/nbd/client/options.ts";
import { COMMAND, OPTION } from "../../src/nbd/protocol.ts";
import { BufferPool } from "../../src/nbd/server/buffer-pool.ts";
import { CONTEXTS } from "../../src/nbd/server/contexts.ts";
import { ExportTable } from "../../src/nbd/server/exports.ts";
import { Negotiation } from "../../src/nbd/server/negotiation.ts";
import { SlabPool } from "../../src/nbd/server/outbox.ts";
import { SharedRoom } from "../../src/nbd/server/room.ts";
import { Traffic } from "../../src/nbd/server/traffic.ts";
import { Transmission } from "../../src/nbd/server/transmission.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { encodeRequest } from "../support/raw-nbd-client.ts";
import { pick, rng } from "../support/seed.ts";
import { LazyLink } from "./nbd-link.ts";
import { drawBentStream, drawLargeWrites, drawReads, drawRequest, repliesOf } from "./nbd-requests.ts";

const SIZE = 4 * 1024 * 1024;
const ROOM = 16 * 1024 * 1024;

/** Memory that takes its time: each call waits for some turns of the loop, and some fail. */
class MoodyNode extends MemoryNode {
  /** Turns that a call takes at the most. */
  slowness = 4;
  readonly #random: Random;
  readonly #failures: number;

  constructor(random: Random, failures: number) {
    super(SIZE, { grows: false });
    this.#random = random;
    this.#failures = failures;
  }

  readNow(offset: number, target: Uint8Array): boolean {
    if (chance(this.#random, 0.5)) return false;
    void super.read(offset, target);
    return true;
  }
  canZeroFast(): boolean {
    return true;
  }
  /** Fills it at once; zeroes of a page or more take no space. */
  async load(bytes: Uint8Array): Promise<void> {
    await super.write(0, bytes);
    for (let at = 0; at < bytes.length; at += 65536) {
      if (bytes.subarray(at, at + 65536).every((byte) => byte === 0)) await super.discard(at, 65536);
    }
  }
  override async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#turns();
    await super.read(offset, target);
  }
  override async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#turns();
    await super.write(offset, data);
  }
  override async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#turns();
    await super.writeZeroes(offset, length);
  }
  override async discard(offset: number, length: number): Promise<void> {
    await this.#turns();
    await super.discard(offset, length);
  }
  async #turns(): Promise<void> {
    for (let turns = below(this.#random, this.slowness); turns > 0; turns--) await turn();
    if (chance(this.#random, this.#failures)) throw new StreamdiskError("io", "it is in a mood");
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Ground {
  readonly link: LazyLink;
  readonly shared: SharedRoom;
  readonly transmission: Transmission;
}

function begin(node: MemoryNode): Ground {
  const link = new LazyLink();
  const shared = new SharedRoom(ROOM);
  const transmission = new Transmission({
    served: { name: "", readOnly: false, node: Object.assign(node, { cache: async () => {} }) },
    length: SIZE,
    structured: true,
    contexts: CONTEXTS,
    link,
    memory: { slabs: new SlabPool(), buffers: new BufferPool() },
    shared,
    clock: new ManualClock(),
    traffic: new Traffic(),
    onError: (error) => assert.ok(error instanceof StreamdiskError, String(error)),
  });
  return { link, shared, transmission };
}

/** Feeds bytes in pieces, as a socket would: not while it is paused, and into the place where they are wanted. */
async function feed({ link, transmission }: Ground, random: Random, bytes: Buffer): Promise<void> {
  const common = Buffer.alloc(65536);
  for (let at = 0; at < bytes.length && !link.over; ) {
    while (link.paused && !link.over) {
      link.take(1 + below(random, 3));
      await turn();
    }
    const place = transmission.place() ?? common;
    const most = chance(random, 0.3) ? between(random, 1, 100) : place.length;
    const count = bytes.copy(place, 0, at, at + Math.min(place.length, most));
    transmission.receive(place.subarray(0, count));
    // What lies in the common buffer is the next socket's.
    if (place === common) common.fill(0xee, 0, count);
    at += count;
    if (chance(random, 0.2)) await turn();
    if (chance(random, 0.3)) link.take(below(random, 4));
  }
}

/** Lets everything end. */
async function settle({ link }: Ground): Promise<void> {
  for (let quiet = 0; quiet < 120; quiet++) {
    link.take(1000);
    await turn();
  }
}

const PATTERN = Buffer.from(Array.from({ length: SIZE }, (_, at) => ((at * 167) ^ (at >> 8)) & 0xff));

async function rightCase(random: Random): Promise<void> {
  const node = new MoodyNode(random, 0);
  const ground = begin(node);
  // Every place has other bytes, and some are holes.
  const model = Buffer.from(PATTERN);
  for (let at = below(random, 100_000); at < SIZE; at += 500_000) model.fill(0, at, Math.min(SIZE, at + 200_000));
  await node.load(model);
  const { link } = ground;
  for (let round = 0; round < 6; round++) {
    link.eager = chance(random, 0.3);
    node.slowness = oneOf(random, [2, 4, 20]);
    // At a time only requests that don't touch each other, or change nothing.
    const batch = chance(random, 0.4)
      ? drawReads(random, SIZE)
      : Array.from({ length: between(random, 1, 12) }, (_, cookie) => drawRequest(random, cookie, SIZE));
    const changes = batch.some(({ command }) => command !== COMMAND.READ);
    const apart = batch.filter((one, index) => !changes || batch.slice(0, index).every((other) => !touch(one, other)));
    const expected = new Map(apart.map((request) => [request.cookie!, contentAfter(model, request)]));
    await feed(ground, random, Buffer.concat(apart.map(encodeRequest)));
    await settle(ground);
    const open = new Set(expected.keys());
    const read = new Map<number, number>();
    for (const { cookie, done, content } of repliesOf(link.received())) {
      assert.ok(open.has(cookie), `a reply to ${cookie}, which has ended or never was`);
      if (done) open.delete(cookie);
      if (content === undefined) continue;
      const { offset, bytes } = content;
      const right = model.subarray(offset, offset + bytes.length);
      assert.equal(Buffer.compare(bytes, right), 0, `wrong bytes at ${offset}`);
      read.set(cookie, (read.get(cookie) ?? 0) + bytes.length);
    }
    assert.equal(open.size, 0, "all are answered");
    for (const [cookie, length] of expected) assert.ok((read.get(cookie) ?? length) === length);
  }
  await quit(ground);
}

type Request = ReturnType<typeof drawRequest>;

function spanOf({ offset = 0, length, data }: Request): [number, number] {
  return [Number(offset), Number(offset) + (length ?? data?.length ?? 0)];
}

function touch(a: Request, b: Request): boolean {
  const [[from, to], [start, end]] = [spanOf(a), spanOf(b)];
  return from < end && start < to;
}

/** Changes the model as a request that is carried out does. @returns bytes that a read is answered with */
function contentAfter(model: Buffer, request: Request): number {
  const { command, flags = 0, data } = request;
  const [from, to] = spanOf(request);
  // The flags that are valid for it, beside FUA.
  const valid = 1 | (command === COMMAND.READ ? 4 : command === COMMAND.WRITE_ZEROES ? 18 : 0);
  if ((flags & ~valid) !== 0) return 0;
  if (command === COMMAND.WRITE) data && model.set(data, from);
  else if (command === COMMAND.WRITE_ZEROES || command === COMMAND.TRIM) model.fill(0, from, to);
  // An unfragmented read of more than 1 MiB is refused.
  return command === COMMAND.READ && !(flags === 4 && to - from > 1024 * 1024) ? to - from : 0;
}

/** However it ended, nothing is held any more. */
async function quit(ground: Ground): Promise<void> {
  ground.transmission.gone();
  await settle(ground);
  assert.ok(
    ground.shared.take(ROOM, () => {}),
    "all room has come back",
  );
}

async function bentCase(random: Random): Promise<"over" | "open"> {
  const node = new MoodyNode(random, 0.1);
  const ground = begin(node);
  const large = chance(random, 0.1);
  node.slowness = large ? 100 : 4;
  await feed(ground, random, large ? drawLargeWrites(random, SIZE) : drawBentStream(random, SIZE));
  const end = large ? "go" : oneOf(random, ["wait", "close", "give up", "go"] as const);
  if (end === "close" || end === "give up") ground.transmission.close();
  if (end === "give up") ground.transmission.giveUp();
  if (end !== "go") await settle(ground);
  const { over } = ground.link;
  for (const _ of repliesOf(ground.link.received()));
  await quit(ground);
  return over && end === "wait" ? "over" : "open";
}

async function run(name: string, count: number, act: (random: Random) => Promise<void>): Promise<void> {
  for (let index = 0; index < count; index++) {
    try {
      await act(rng(`${name} ${index}`));
    } catch (error) {
      throw new Error(`Case '${name} ${index}' failed`, { cause: error });
    }
  }
}

test("right clients get right bytes, whenever they take them", async (t) => {
  const count = pick(30, 2000);
  await run("nbd right client", count, rightCase);
  t.diagnostic(`cells ${count}`);
});

test("bent requests are answered or end the connection, and leave nothing behind", async (t) => {
  const count = pick(400, 20_000);
  const ends = { over: 0, open: 0 };
  await run("nbd bent client", count, async (random) => {
    ends[await bentCase(random)]++;
  });
  t.diagnostic(`cells ${count}`);
  assert.ok(ends.over > count / 100 && ends.open > count / 4, JSON.stringify(ends));
});

test("bent options are answered or end the connection", (t) => {
  const count = pick(20_000, 1_000_000);
  const node = new MemoryNode(512);
  const served = { name: "vm", description: "a disk", readOnly: false, node };
  const right = Buffer.concat([
    Buffer.from([0, 0, 0, 3]),
    encodeOption(OPTION.STRUCTURED_REPLY),
    encodeOption(OPTION.LIST),
    encodeOption(OPTION.LIST_META_CONTEXT, encodeContextQuery("vm", ["base:", "x-y:z"])),
    encodeOption(OPTION.SET_META_CONTEXT, encodeContextQuery("vm", ["base:allocation"])),
    encodeOption(OPTION.INFO, encodeInfoRequest("vm", [1, 2, 3])),
    encodeOption(77, Buffer.alloc(20)),
    encodeOption(OPTION.GO, encodeInfoRequest("vm", [3])),
  ]);
  const ends = { over: 0, open: 0 };
  for (let index = 0; index < count; index++) {
    const random = rng(`nbd option ${index}`);
    const bytes = Buffer.from(right);
    for (let times = 1 + below(random, 3); times > 0; times--) {
      const at = below(random, bytes.length - 4);
      if (chance(random, 0.5)) bytes[at]! ^= 1 << below(random, 8);
      else bytes.writeUInt32BE(oneOf(random, [0, 1, 4097, 65537, 0x7fffffff, 0xffffffff]), at);
    }
    let end = false;
    let sent = 0;
    const finish = (): void => {
      assert.equal(end, false, "it ends once");
      end = true;
    };
    const negotiation = new Negotiation(
      {
        exports: new ExportTable([served]),
        tls: false,
        unsent: 0,
        refusal: () => undefined,
        send: (reply) => {
          assert.ok(!end && reply.length < 5000);
          sent += reply.length;
        },
        transmit: finish,
        startTls: finish,
        end: finish,
        drop: (why) => {
          assert.ok(why instanceof StreamdiskError, String(why));
          finish();
        },
      },
      false,
    );
    for (let at = 0; at < bytes.length && !end; ) {
      const to = chance(random, 0.3) ? at + between(random, 1, 40) : bytes.length;
      negotiation.receive(bytes.subarray(at, to));
      at = to;
    }
    assert.ok(sent < 20_000);
    ends[end ? "over" : "open"]++;
  }
  t.diagnostic(`cells ${count}`);
  assert.ok(ends.over > count / 4 && ends.open > count / 100, JSON.stringify(ends));
});
