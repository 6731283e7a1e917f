/**
 * Clients that break the protocol, one way each, over a real socket. Whatever they do: the answer is the one that the protocol
 * has, or the end of their connection; what is wrong is reported once; nothing is written that was not sent whole; and a client
 * beside them is served.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { StreamdiskError } from "../../src/errors/index.ts";
import { encodeContextQuery, encodeInfoRequest, encodeOption } from "../../src/nbd/client/options.ts";
import { type NbdServer, serveNbd } from "../../src/nbd/index.ts";
import { COMMAND, COMMAND_FLAG, NBD_ERROR, OPTION, REPLY } from "../../src/nbd/protocol.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { encodeRequest, RawNbdClient } from "../support/raw-nbd-client.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-client-faults-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const MIB = 1024 * 1024;
const LENGTH = 64 * MIB;
const { READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS, CACHE, DISC } = COMMAND;
const { DF, NO_HOLE } = COMMAND_FLAG;
const { EINVAL, ENOSPC, EPERM, EOVERFLOW } = NBD_ERROR;

interface Ground {
  readonly server: NbdServer;
  readonly node: MemoryNode;
  readonly clock: ManualClock;
  readonly errors: StreamdiskError[];
}

let count = 0;
/** @param filled bytes of the disk that are not zero */
async function onGround(act: (ground: Ground) => Promise<void>, filled = 0): Promise<void> {
  const node = new MemoryNode(LENGTH, { grows: false });
  await node.write(0, Buffer.alloc(filled, 3));
  const clock = new ManualClock();
  const errors: StreamdiskError[] = [];
  await using server = await serveNbd({
    listen: { path: join(directory, `s${count++}`) },
    exports: [
      { name: "", readOnly: false, node },
      { name: "safe", readOnly: true, node },
    ],
    clock,
    onError: (error) => errors.push(error),
  });
  await using witness = await RawNbdClient.connect(server.address);
  await witness.go();
  await act({ server, node, clock, errors });
  assert.ok(await witness.isServed(65536), "a client beside it is served");
  assert.equal(node.allocated, filled, "nothing was written");
}

/** Ends with the connection cut off, and one report. */
const cutOff: readonly (readonly [string, RegExp, (client: RawNbdClient) => Promise<void> | void])[] = [
  ["flags that nobody knows", /flags/, (client) => client.send(Buffer.from([0, 0, 0, 0xff]))],
  ["an HTTP request", /flags|no option/, (client) => client.send(Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))],
  [
    "an option with another magic",
    /no option/,
    (client) => client.send(Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 0x11)),
  ],
  [
    "a flood of unknown options",
    /4096 options|does not read/,
    (client) => {
      client.send(Buffer.from([0, 0, 0, 3]), Buffer.concat(Array.from({ length: 5000 }, () => encodeOption(1234))));
    },
  ],
  [
    "EXPORT_NAME of an export that is not there",
    /'nowhere' that is not there/,
    (client) => client.send(Buffer.from([0, 0, 0, 3]), encodeOption(OPTION.EXPORT_NAME, Buffer.from("nowhere"))),
  ],
  [
    "a request with another magic",
    /no request/,
    async (client) => {
      client.send(Buffer.from([0, 0, 0, 3]));
      await client.go();
      client.request({ command: READ, offset: 0, length: 512, magic: 0x25609514 });
    },
  ],
  [
    "a reply in place of a request",
    /no request/,
    async (client) => {
      client.send(Buffer.from([0, 0, 0, 3]));
      await client.go();
      client.send(Buffer.alloc(28, 0x67));
    },
  ],
];

for (const [what, why, act] of cutOff) {
  test(`${what}: cut off`, () =>
    onGround(async ({ server, errors }) => {
      await using client = await RawNbdClient.dial(server.address);
      await client.take(18);
      await act(client);
      await client.closed;
      assert.deepEqual(
        errors.map(({ code }) => code),
        ["protocol"],
      );
      assert.match(errors[0]!.message, why);
    }));
}

type Request = Parameters<RawNbdClient["request"]>[0];

/** Ends with an error, and the connection as good as before. */
const refused: readonly (readonly [
  string,
  number,
  Request,
  { readonly name?: string; readonly structured?: false }?,
])[] = [
  ["a read past the end", EINVAL, { command: READ, offset: LENGTH - 1, length: 2 }],
  ["a read whose end overflows 64 bits", EINVAL, { command: READ, offset: 2n ** 64n - 1n, length: 4096 }],
  ["a read at 2^63", EINVAL, { command: READ, offset: 2n ** 63n, length: 1 }],
  ["a read of 4 GiB", EOVERFLOW, { command: READ, offset: 0, length: 0xffffffff }],
  ["a read of 4 GiB, simple", EINVAL, { command: READ, offset: 0, length: 0xffffffff }, { structured: false }],
  ["an unfragmented read that is too large", EOVERFLOW, { command: READ, offset: 0, length: 2 * MIB, flags: DF }],
  ["a write past the end", ENOSPC, { command: WRITE, offset: LENGTH, data: Buffer.alloc(512, 1) }],
  [
    "a write to a read-only export",
    EPERM,
    { command: WRITE, offset: 0, data: Buffer.alloc(5000, 1) },
    { name: "safe" },
  ],
  ["a trim of a read-only export", EPERM, { command: TRIM, offset: 0, length: 512 }, { name: "safe" }],
  ["zeroes to a read-only export", EPERM, { command: WRITE_ZEROES, offset: 0, length: 512 }, { name: "safe" }],
  ["a write of 40 MiB", EINVAL, { command: WRITE, offset: 0, data: Buffer.alloc(40 * MIB, 1) }],
  ["zeroes past the end", ENOSPC, { command: WRITE_ZEROES, offset: 0, length: 0xffffffff }],
  ["a trim past the end", EINVAL, { command: TRIM, offset: LENGTH - 512, length: 513 }],
  ["a flush of a range", EINVAL, { command: FLUSH, offset: 512, length: 512 }],
  ["CACHE where there is none", EINVAL, { command: CACHE, offset: 0, length: 512 }],
  ["BLOCK_STATUS without a context", EINVAL, { command: BLOCK_STATUS, offset: 0, length: 512 }],
  ["an unknown command", EINVAL, { command: 77, offset: 0, length: 512 }],
  ["a flag of another command", EINVAL, { command: READ, offset: 0, length: 512, flags: NO_HOLE }],
  ["an unknown flag of a write", EINVAL, { command: WRITE, offset: 0, data: Buffer.alloc(512, 1), flags: 0x8000 }],
];

for (const [what, error, request, { name = "", structured = true } = {}] of refused) {
  test(`${what}: refused`, () =>
    onGround(async ({ server, errors }) => {
      await using client = await RawNbdClient.connect(server.address);
      await client.go(name, { structured });
      const [reply] = await client.ask({ ...request, cookie: 0xc00c1e });
      assert.equal(reply!.cookie, 0xc00c1e);
      assert.equal(reply!.error ?? reply!.payload.readUInt32BE(0), error);
      if (structured) assert.match(reply!.payload.toString("utf8", 6), /of export '.*' is refused: /);
      assert.equal(errors.length, 1);
      assert.match(errors[0]!.message, new RegExp(`of ${request.length ?? request.data?.length ?? 0} bytes at `));
      await answersStill(client, structured);
    }));
}

async function answersStill(client: RawNbdClient, structured: boolean): Promise<void> {
  client.request({ command: READ, offset: 0, length: 512, cookie: 2 });
  const reply = await client.reply();
  assert.deepEqual([reply.cookie, reply.error ?? 0], [2, 0]);
  if (!structured) await client.take(512);
}

test("options too long to be true are skipped, however they are sent", () =>
  onGround(async ({ server }) => {
    await using client = await RawNbdClient.connect(server.address);
    for (const length of [65537, 30 * MIB]) {
      assert.equal(await client.outcome(OPTION.GO, Buffer.alloc(length)), REPLY.ERR_TOO_BIG);
    }
    await client.go();
  }));

test("data that lie about their length are refused", () =>
  onGround(async ({ server }) => {
    await using client = await RawNbdClient.connect(server.address);
    const good = encodeInfoRequest("x", [1, 2, 3]);
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at] = 0xff;
      assert.ok((await client.outcome(OPTION.INFO, bad)) >= 0x80000000);
      assert.ok((await client.outcome(OPTION.INFO, good.subarray(0, at))) >= 0x80000000);
    }
    await client.option(OPTION.STRUCTURED_REPLY);
    const query = encodeContextQuery("", ["base:allocation"]);
    for (let at = 0; at < query.length; at++) {
      await client.outcome(OPTION.SET_META_CONTEXT, query.subarray(0, at));
      const bad = Buffer.from(query);
      bad[at] = 0xff;
      await client.outcome(OPTION.SET_META_CONTEXT, bad);
    }
    await client.go();
    assert.equal(await client.errorOf({ command: BLOCK_STATUS, offset: 0, length: 512 }), EINVAL);
  }));

test("a client that hangs up anywhere in a conversation", () =>
  onGround(async ({ server, node }) => {
    const conversation = Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      encodeOption(OPTION.STRUCTURED_REPLY),
      encodeOption(OPTION.GO, encodeInfoRequest("", [])),
      encodeRequest({ command: READ, offset: 0, length: 65536 }),
      encodeRequest({ command: WRITE, offset: 0, data: Buffer.alloc(2000, 1) }),
    ]);
    for (let at = 0; at < conversation.length - 1; at += at < 150 ? 1 : 97) {
      const client = await RawNbdClient.dial(server.address);
      client.send(conversation.subarray(0, at));
      if (at % 2 === 0) client.socket.end();
      else client.destroy();
      await client.closed;
    }
    assert.equal(node.allocated, 0);
  }));

test("a client that says it leaves, and goes on talking", () =>
  onGround(async ({ server }) => {
    await using client = await RawNbdClient.connect(server.address);
    await client.go();
    client.request({ command: DISC });
    client.request({ command: WRITE, offset: 0, data: Buffer.alloc(512, 1) });
    await client.closed;
  }));

test("a client that sends a byte now and then has 30 s until it must have an export, and then all the time in the world", () =>
  onGround(async ({ server, clock, errors }) => {
    await using early = await RawNbdClient.dial(server.address);
    await using late = await RawNbdClient.connect(server.address);
    await late.go();
    const slowly = encodeRequest({ command: READ, offset: 0, length: 512, cookie: 7 });
    const option = Buffer.concat([Buffer.from([0, 0, 0, 3]), encodeOption(OPTION.LIST)]);
    for (let at = 0; at < slowly.length; at++) {
      early.send(option.subarray(at % option.length, (at % option.length) + 1));
      late.send(slowly.subarray(at, at + 1));
      await clock.advance(2000);
    }
    await early.closed;
    assert.match(errors[0]!.message, /has not chosen an export in 30 s/);
    assert.equal((await late.reply()).cookie, 7);
  }));

test("clients that ask for everything and read nothing", () =>
  onGround(async ({ server }) => {
    const before = process.memoryUsage().rss;
    const greedy: RawNbdClient[] = [];
    for (let index = 0; index < 20; index++) {
      const client = await RawNbdClient.connect(server.address);
      await client.go();
      client.socket.pause();
      for (let cookie = 0; cookie < 200; cookie++) {
        client.request({ command: READ, cookie, offset: 0, length: 32 * MIB, flags: 0 });
        client.request({ command: READ, cookie: cookie + 1000, offset: cookie, length: 60_000 });
      }
      greedy.push(client);
    }
    await using good = await RawNbdClient.connect(server.address);
    await good.go();
    for (let round = 0; round < 50; round++) assert.ok(await good.isServed(65536));
    assert.ok(process.memoryUsage().rss - before < 700 * MIB, "what they can make it hold is bounded");
    for (const client of greedy) client.destroy();
  }, 32 * MIB));
