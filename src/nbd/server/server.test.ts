import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { RawNbdClient } from "../../../test/support/raw-nbd-client.ts";
import type { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, NBD_ERROR, OPTION } from "../protocol.ts";
import type { NbdExport } from "./exports.ts";
import { type NbdServer, type ServeNbdOptions, serveNbd } from "./server.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-server-"));
after(() => rmSync(directory, { recursive: true }));

let count = 0;
const LENGTH = 1024 * 1024;
const { READ, WRITE } = COMMAND;

function exported(name = "", more: Partial<NbdExport> = {}): NbdExport {
  return { name, readOnly: false, node: new MemoryNode(LENGTH, { grows: false }), ...more };
}

async function served(
  options: Partial<ServeNbdOptions> = {},
): Promise<{ server: NbdServer; errors: StreamdiskError[] }> {
  const errors: StreamdiskError[] = [];
  const server = await serveNbd({
    listen: { path: join(directory, `s${count++}`) },
    exports: [exported()],
    onError: (error) => errors.push(error),
    ...options,
  });
  return { server, errors };
}

async function client(server: NbdServer, name = ""): Promise<RawNbdClient> {
  const raw = await RawNbdClient.connect(server.address);
  await raw.go(name);
  return raw;
}

test("clients of a socket and of a port see one disk", async () => {
  const disk = exported("vm");
  await using unix = (await served({ exports: [disk] })).server;
  await using tcp = (await served({ exports: [disk], listen: { host: "127.0.0.1", port: 0 } })).server;
  assert.match(unix.uri, /^nbd\+unix:\/\/\/vm\?socket=\/.*\/s\d+$/);
  assert.match(tcp.uri, /^nbd:\/\/127\.0\.0\.1:\d+\/vm$/);
  await using a = await client(unix, "vm");
  await using b = await client(tcp, "vm");
  assert.equal(await a.errorOf({ command: WRITE, offset: 512, data: Buffer.from("hello") }), 0);
  assert.equal(await b.errorOf({ command: COMMAND.FLUSH }), 0);
  const [reply] = await b.ask({ command: READ, offset: 512, length: 5 });
  assert.equal(reply!.payload.toString("utf8", 8), "hello");
  assert.deepEqual([unix.connections, tcp.connections], [1, 1]);
});

test("a port that is taken is refused by name", async () => {
  await using first = (await served({ listen: { host: "127.0.0.1", port: 0 } })).server;
  const { address } = first;
  assert.ok(!address.unix);
  await assert.rejects(serveNbd({ listen: { host: "127.0.0.1", port: address.port } }), {
    code: "in-use",
    message: `Another server listens at '127.0.0.1:${address.port}'`,
  });
});

test("exports come and go; those that use one that goes are told to leave", async () => {
  const { server } = await served({ exports: [] });
  await using _ = server;
  server.addExport(exported("a"));
  server.addExport(exported("b"));
  assert.throws(() => server.addExport(exported("a")), { code: "exists" });
  assert.throws(() => server.addExport(exported("x".repeat(4097))), { code: "invalid-argument" });
  assert.throws(() => server.addExport(exported("c", { description: "\0" })), { code: "invalid-argument" });
  await using a = await client(server, "a");
  await using b = await client(server, "b");
  await server.removeExport("a");
  await a.closed;
  assert.ok(await b.isServed(512));
  await assert.rejects(client(server, "a"), /There is no export 'a'/);
  await server.removeExport("never there");
});

test("an export takes so many connections and no more", async () => {
  await using server = (await served({ exports: [exported("", { maxConnections: 2 })] })).server;
  const first = await client(server);
  await using _ = await client(server);
  await assert.rejects(client(server), /takes 2 connections at a time/);
  const again = async (): Promise<RawNbdClient> => client(server).catch(again);
  first.destroy();
  await (await again()).closed.constructor;
});

test("close answers what is under way, ends all, and frees the address", async () => {
  const node = new MemoryNode(LENGTH);
  const open = Promise.withResolvers<void>();
  const read = node.read.bind(node);
  node.read = async (offset, target) => {
    await open.promise;
    await read(offset, target);
  };
  const { server } = await served({ exports: [exported("", { node })] });
  await using busy = await client(server);
  await using idle = await client(server);
  await using haggling = await RawNbdClient.connect(server.address);
  await haggling.option(OPTION.LIST);
  busy.request({ command: READ, offset: 0, length: 512 });
  // What comes after the request has been taken up is refused.
  await new Promise((resolve) => setTimeout(resolve, 20));
  const closing = server.close();
  await Promise.all([idle.closed, haggling.closed]);
  assert.equal(await busy.errorOf({ command: READ, offset: 0, length: 512, cookie: 2 }), NBD_ERROR.ESHUTDOWN);
  open.resolve();
  assert.equal((await busy.reply()).payload.length, 8 + 512);
  await closing;
  await server.close();
  const { address } = server;
  assert.ok(address.unix);
  await using _ = await serveNbd({ listen: { path: address.socket } });
});

test("a client that leaves and closes its side gets what it is owed", async () => {
  const node = new MemoryNode(LENGTH);
  const open = Promise.withResolvers<void>();
  const read = node.read.bind(node);
  node.read = async (offset, target) => {
    await open.promise;
    await read(offset, target);
  };
  await using server = (await served({ exports: [exported("", { node })] })).server;
  for (const says of [true, false]) {
    await using one = await client(server);
    one.request({ command: READ, offset: 0, length: 512 });
    if (says) one.request({ command: COMMAND.DISC });
    one.socket.end();
    if (says) {
      open.resolve();
      assert.equal((await one.reply()).payload.length, 8 + 512);
    }
    await one.closed;
  }
});

test("close waits so long and no longer", async () => {
  const node = new MemoryNode(LENGTH);
  const begun = Promise.withResolvers<void>();
  node.read = () => {
    begun.resolve();
    return new Promise(() => {});
  };
  const clock = new ManualClock();
  const { server } = await served({ exports: [exported("", { node })], clock });
  await using stuck = await client(server);
  stuck.request({ command: READ, offset: 0, length: 512 });
  await begun.promise;
  const closing = server.close({ drainMs: 5000 });
  // The socket's name goes first, which takes the time of a file system and not that of the clock.
  while (!clock.slept.includes(5000)) await new Promise((resolve) => setImmediate(resolve));
  await clock.advance(4999);
  const reply = stuck.reply();
  assert.equal(await Promise.race([reply, new Promise((resolve) => setTimeout(resolve, 20, "none"))]), "none");
  await clock.advance(1);
  assert.equal((await reply).payload.readUInt32BE(0), NBD_ERROR.ESHUTDOWN);
  stuck.destroy();
  await closing;
});

test("who has not chosen an export in time is cut off, who has is not", async () => {
  const clock = new ManualClock();
  const { server, errors } = await served({ clock });
  await using _ = server;
  await using slow = await RawNbdClient.dial(server.address);
  await using idle = await client(server);
  await clock.advance(29_999);
  slow.send(Buffer.from([0]));
  await clock.advance(1);
  await slow.closed;
  assert.match(errors[0]!.message, /has not chosen an export in 30 s/);
  await clock.advance(24 * 3600 * 1000);
  assert.ok(await idle.isServed(512));
});

test("200 idle clients, and as many that hang up with replies pending, harm nobody", async () => {
  await using server = (await served()).server;
  const idle = await Promise.all(Array.from({ length: 200 }, () => client(server)));
  const rude = await Promise.all(Array.from({ length: 200 }, () => client(server)));
  for (const one of rude) {
    for (let cookie = 0; cookie < 40; cookie++) one.request({ command: READ, cookie, offset: 0, length: LENGTH });
    one.destroy();
  }
  await Promise.all(rude.map(({ closed }) => closed));
  await using good = await client(server);
  for (let round = 0; round < 20; round++) assert.ok(await good.isServed(65536));
  assert.ok(await idle[7]!.isServed(512));
  for (const one of idle) one.destroy();
  await Promise.all(idle.map(({ closed }) => closed));
});

test("each client has its figures, and the server those of all, also of the ones that have gone", async () => {
  const errors: StreamdiskError[] = [];
  await using unix = (await served()).server;
  await using tcp = (await served({ listen: { host: "127.0.0.1", port: 0 }, onError: (error) => errors.push(error) }))
    .server;
  const began = Date.now();
  await using a = await client(unix);
  const b = await client(unix);
  await using c = await client(tcp);
  await a.ask({ command: READ, offset: 0, length: 4096 });
  await b.errorOf({ command: WRITE, offset: 0, data: Buffer.alloc(512) });
  await c.errorOf({ command: READ, offset: LENGTH, length: 1 });
  const [first, second, ...more] = unix.clients();
  assert.deepEqual([first?.peer, first?.tls, first?.inFlight, more], ["unix", false, 0, []]);
  assert.ok((first?.since ?? 0) >= began);
  assert.deepEqual([first?.reads, first?.readBytes, first?.writes], [1, 4096, 0]);
  assert.deepEqual([second?.reads, second?.writes, second?.writtenBytes], [0, 1, 512]);
  assert.match(tcp.clients()[0]?.peer ?? "", /^127\.0\.0\.1:\d+$/);
  assert.deepEqual([tcp.clients()[0]?.errors, tcp.requests, errors.length], [1, 1, 1]);
  await b[Symbol.asyncDispose]();
  while (unix.connections > 1) await new Promise((resolve) => setImmediate(resolve));
  const { reads, writes, writtenBytes } = unix.traffic().figures();
  assert.deepEqual([reads, writes, writtenBytes, unix.requests], [1, 1, 512, 2]);
});
