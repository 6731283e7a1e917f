import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  FakeNbdServer,
  type FakePeer,
  type FakeRequest,
  type FakeServerScript,
} from "../../../test/support/fake-nbd-server.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { contentChunk, errorChunk, simpleReply } from "../../../test/support/nbd-replies.ts";
import { COMMAND, FLAG } from "../protocol.ts";
import { type ConnectNbdOptions, connectNbd } from "./connect.ts";

const MULTI =
  FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_CACHE | FLAG.CAN_MULTI_CONN;

interface Held {
  readonly request: FakeRequest;
  readonly peer: FakePeer;
}

/** A server that holds requests of some commands back until they are answered by hand. */
async function holding(...commands: number[]) {
  const held: Held[] = [];
  const script: FakeServerScript = {
    request: (request, peer) => {
      if (!commands.includes(request.command)) return false;
      held.push({ request, peer });
      return true;
    },
  };
  const server = await FakeNbdServer.start(script);
  /** Lets the held and all later requests pass. */
  const release = (): void => {
    commands.length = 0;
    for (const { request, peer } of held.splice(0)) peer.answer(request);
  };
  return { server, held, release, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

/** For what may fail before somebody waits for it. */
function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Connects with a clock of its own, and keeps what is told of the link. */
async function connected(server: FakeNbdServer, options: ConnectNbdOptions = {}) {
  const clock = new ManualClock();
  const disk = await connectNbd(server.uri, { clock, random: () => 0, timeoutMs: 10_000, ...options });
  const told: (string | true)[] = [];
  disk.onLink((up, error) => void told.push(up || (error?.message ?? "")));
  return { disk, clock, told, [Symbol.asyncDispose]: () => disk.close().catch(() => {}) };
}

test("a connection that breaks is not noticed when the server is there", async () => {
  await using hold = await holding(COMMAND.READ, COMMAND.WRITE);
  const { server } = hold;
  await using link = await connected(server);
  const bytes = Buffer.alloc(5000);
  const under = Promise.all([link.disk.read(100, bytes), link.disk.write(8000, Buffer.from("again"))]);
  await until(() => hold.held.length === 2);
  server.cut();
  await until(() => hold.held.length === 4);
  hold.release();
  await under;
  await link.disk.flush();
  assert.deepEqual(bytes, server.content.subarray(100, 5100));
  assert.equal(server.content.toString("latin1", 8000, 8005), "again");
  assert.deepEqual(link.told, []);
});

test("a server that is gone fails what is asked, and is found again", async () => {
  await using hold = await holding(COMMAND.READ);
  const { server } = hold;
  await using link = await connected(server);
  await link.disk.cache(0, 512);
  const reading = awaitedLater(link.disk.read(0, Buffer.alloc(512)));
  await until(() => hold.held.length === 1);
  await server.stop();
  await assert.rejects(reading, {
    code: "source-lost",
    message: /^READ of 512 bytes at 0 failed: Could not connect to .*: there is no such socket \(ENOENT\)$/,
    context: { node: server.uri, operation: "READ", offset: 0, length: 512 },
  });
  await assert.rejects(link.disk.read(0, Buffer.alloc(512)), { code: "source-lost" });
  await link.clock.advance(20_000);
  // Longer and longer, up to a bound.
  const pauses = link.clock.slept.filter((ms) => ms <= 5000);
  assert.deepEqual(pauses.slice(0, 7), [100, 200, 400, 800, 1600, 3200, 5000]);
  assert.deepEqual(link.told.length, 1);

  await server.listen();
  hold.release();
  await link.clock.advance(5000);
  await until(() => link.told.length === 2);
  await link.disk.read(0, Buffer.alloc(512));
  assert.deepEqual(link.told, [link.told[0], true]);
  assert.match(String(link.told[0]), /no such socket/);
});

test("patience is a time from the loss on, not of a request", async () => {
  await using hold = await holding();
  const { server } = hold;
  await using link = await connected(server, { patienceMs: 3000 });
  await server.stop();
  const first = awaitedLater(link.disk.read(0, Buffer.alloc(512)));
  await until(() => link.told.length === 1);
  await link.clock.advance(2000);
  const second = awaitedLater(link.disk.read(0, Buffer.alloc(512)));
  await link.clock.advance(1000);
  await assert.rejects(first, { code: "source-lost" });
  await assert.rejects(second, { code: "source-lost" });
  await assert.rejects(link.disk.read(0, Buffer.alloc(512)), { code: "source-lost" });

  // Back, and lost again: the time begins anew, and a server that is back in time is not missed.
  await server.listen();
  await link.clock.advance(5000);
  await link.disk.read(0, Buffer.alloc(512));
  await server.stop();
  const third = link.disk.read(0, Buffer.alloc(512));
  await until(() => link.told.length === 3);
  await link.clock.advance(1000);
  await server.listen();
  await link.clock.advance(1000);
  await third;
});

test("a server that is silent is lost after the time limit, and at once", async () => {
  await using hold = await holding(COMMAND.READ);
  await using link = await connected(hold.server);
  const reading = awaitedLater(link.disk.read(0, Buffer.alloc(512)));
  await until(() => hold.held.length === 1);
  await link.clock.advance(9999);
  assert.deepEqual(link.told, []);
  await link.clock.advance(1);
  await assert.rejects(reading, {
    code: "source-lost",
    message: /does not answer: READ of 512 bytes at 0 has waited for 10 s/,
  });
  // An idle link is not a silent one.
  hold.release();
  await until(() => link.told.includes(true));
  await link.clock.advance(100_000);
  await link.disk.read(0, Buffer.alloc(512));
});

test("a flush may take its time", async () => {
  await using hold = await holding(COMMAND.FLUSH);
  await using link = await connected(hold.server);
  const flushing = link.disk.flush();
  await until(() => hold.held.length === 1);
  await link.clock.advance(39_000);
  assert.deepEqual(link.told, []);
  hold.release();
  await flushing;
  // A read beside it may not, and its time begins with itself.
  await using both = await holding(COMMAND.FLUSH, COMMAND.READ);
  await using second = await connected(both.server);
  void awaitedLater(second.disk.flush());
  await second.clock.advance(30_000);
  const reading = awaitedLater(second.disk.read(0, Buffer.alloc(512)));
  await second.clock.advance(9_999);
  assert.deepEqual(second.told, []);
  await second.clock.advance(1);
  await assert.rejects(reading, { code: "source-lost", message: /READ of 512 bytes at 0 has waited for 10 s/ });
});

test("a request that is never answered while others are is lost in the end", async () => {
  let heldBack = 0;
  await using server = await FakeNbdServer.start({
    request: ({ offset }) => {
      if (offset === 4096) heldBack++;
      return offset === 4096;
    },
  });
  await using link = await connected(server);
  const lost = awaitedLater(link.disk.read(4096, Buffer.alloc(512)));
  for (let s = 0; s < 40; s += 5) {
    await link.clock.advance(5000);
    await link.disk.read(0, Buffer.alloc(512));
  }
  await link.clock.advance(1000);
  await assert.rejects(lost, { code: "source-lost", message: /READ of 512 bytes at 4096 has waited for 40 s/ });
  assert.equal(heldBack, 1);
});

test("a server that sends a byte now and then is no server", async () => {
  await using hold = await holding(COMMAND.READ);
  await using link = await connected(hold.server);
  const reading = awaitedLater(link.disk.read(0, Buffer.alloc(512)));
  await until(() => hold.held.length === 1);
  const { request, peer } = hold.held[0]!;
  const reply = contentChunk(request.cookie, 0, Buffer.alloc(512), true);
  for (let sent = 0; sent < 8; sent++) {
    peer.send(reply.subarray(sent, sent + 1));
    await link.clock.advance(5000);
  }
  await assert.rejects(reading, { code: "source-lost", message: /has waited for 40 s/ });
});

test("another server in its place is refused for good", async () => {
  const others: readonly [RegExp, (server: FakeNbdServer) => void][] = [
    [/has 4096 bytes instead of 1048576/, (server) => (server.content = Buffer.alloc(4096))],
    [/become read-only/, (server) => (server.script.flags = FLAG.HAS_FLAGS | FLAG.READ_ONLY)],
    [/lost an ability \(canFlush\)/, (server) => (server.script.flags = FLAG.HAS_FLAGS)],
    [/lost an ability \(structuredReplies\)/, (server) => (server.script.structured = false)],
    [/smallest block has 512 bytes instead of 1/, (server) => (server.script.blockSizes = [512, 4096, 2 ** 25])],
    [/takes requests of 65536 bytes/, (server) => (server.script.blockSizes = [1, 4096, 65536])],
    [/does not tell 'base:allocation'/, (server) => (server.script.contexts = new Map())],
  ];
  for (const [message, change] of others) {
    await using server = await FakeNbdServer.start({ contexts: new Map([[1, "base:allocation"]]) });
    await using link = await connected(server);
    change(server);
    server.cut();
    await until(() => link.told.length === 1);
    await assert.rejects(link.disk.read(0, Buffer.alloc(512)), { code: "changed", message });
    assert.match(String(link.told[0]), message);
    await link.clock.advance(60_000);
    await assert.rejects(link.disk.read(0, Buffer.alloc(512)), { code: "changed" });
    assert.equal(server.peers.length, 2);
  }
});

test("more than was promised is no change", async () => {
  await using server = await FakeNbdServer.start({ flags: FLAG.HAS_FLAGS });
  await using link = await connected(server);
  server.script.flags = MULTI;
  server.cut();
  await link.disk.read(0, Buffer.alloc(512));
  assert.deepEqual(link.told, []);
});

test("a wrong reply fails its own request, and the others are sent again", async () => {
  await using hold = await holding(COMMAND.READ);
  const { server } = hold;
  await using link = await connected(server);
  const bytes = Buffer.alloc(512);
  const guilty = link.disk.read(0, Buffer.alloc(512));
  const other = link.disk.read(4096, bytes);
  await until(() => hold.held.length === 2);
  const { request, peer } = hold.held[0]!;
  peer.send(contentChunk(request.cookie, 100_000, Buffer.alloc(512), true));
  await assert.rejects(guilty, {
    code: "protocol",
    message: /answered READ of 512 bytes at 0 with a data chunk of 512 bytes at 100000, outside/,
  });
  await until(() => hold.held.length === 3);
  hold.held.splice(0, 2);
  hold.release();
  await other;
  assert.deepEqual(bytes, server.content.subarray(4096, 4608));
  assert.deepEqual(link.told, []);
});

test("a request that ends every connection is given up", async () => {
  await using server = await FakeNbdServer.start({
    request: ({ offset }, peer) => {
      if (offset === 4096) peer.socket.destroy();
      return offset === 4096;
    },
  });
  await using link = await connected(server, { patienceMs: 100_000 });
  await link.disk.read(0, Buffer.alloc(512));
  await assert.rejects(link.clock.runUntil(link.disk.read(4096, Buffer.alloc(512)), 100), {
    code: "source-lost",
    message: /READ of 512 bytes at 4096 failed: 4 connections to .* ended meanwhile/,
  });
  await link.clock.runUntil(link.disk.read(0, Buffer.alloc(512)), 100);
});

test("a server that ends each connection at once is not run against", async () => {
  await using server = await FakeNbdServer.start();
  await using link = await connected(server);
  await link.disk.read(0, Buffer.alloc(512));
  server.script.greeting = new Uint8Array(0);
  const timer = setInterval(() => server.cut(), 1);
  try {
    await until(() => link.told.length === 1);
    await link.clock.advance(10_000);
    assert.ok(server.peers.length < 12, `${server.peers.length} connections`);
  } finally {
    clearInterval(timer);
  }
});

test("a server that shuts down is left, and waited for", async () => {
  let restarted = false;
  await using server = await FakeNbdServer.start({
    request: (request, peer) => {
      if (restarted || request.command !== COMMAND.READ) return false;
      peer.send(errorChunk(request.cookie, 108, "maintenance", { done: true }));
      restarted = true;
      return true;
    },
  });
  await using link = await connected(server);
  const bytes = Buffer.alloc(512);
  await link.disk.read(0, bytes);
  assert.deepEqual(bytes, server.content.subarray(0, 512));
  await until(() => server.requests.some(({ command }) => command === COMMAND.DISC));
});

test("a flush vouches for no write that only a dead server has seen", async () => {
  await using server = await FakeNbdServer.start();
  await using link = await connected(server);
  await link.disk.write(0, Buffer.from("safe"));
  await link.disk.flush();
  server.cut();
  await link.disk.write(0, Buffer.from("lost"));
  server.cut();
  await link.disk.read(0, Buffer.alloc(512));
  const doubt = { code: "changed", message: /writes that were answered and not flushed, which may be lost/ } as const;
  await assert.rejects(link.disk.flush(), doubt);
  await link.disk.write(0, Buffer.from("more"));
  await assert.rejects(link.disk.flush(), doubt);
  await assert.rejects(link.disk.close(), doubt);
});

test("a flush that was under way when the connection broke vouches for nothing either", async () => {
  await using hold = await holding(COMMAND.FLUSH);
  await using link = await connected(hold.server);
  await link.disk.write(0, Buffer.from("data"));
  const flushing = link.disk.flush();
  await until(() => hold.held.length === 1);
  hold.server.cut();
  await until(() => hold.held.length === 2);
  hold.release();
  await assert.rejects(flushing, { code: "changed" });
});

test("a write that was under way is sent again, and flushed", async () => {
  await using hold = await holding(COMMAND.WRITE);
  await using link = await connected(hold.server);
  const writing = link.disk.write(0, Buffer.from("data"));
  await until(() => hold.held.length === 1);
  hold.server.cut();
  await until(() => hold.held.length === 2);
  hold.release();
  await writing;
  await link.disk.flush();
  assert.equal(hold.server.content.toString("latin1", 0, 4), "data");
});

test("after a flush that the server failed, flushes fail", async () => {
  let fail = true;
  await using server = await FakeNbdServer.start({
    request: ({ command, cookie }, peer) => {
      if (command !== COMMAND.FLUSH || !fail) return false;
      peer.send(simpleReply(cookie, 5));
      return true;
    },
  });
  await using link = await connected(server);
  await link.disk.write(0, Buffer.from("data"));
  await assert.rejects(link.disk.flush(), { code: "io" });
  fail = false;
  await assert.rejects(link.disk.flush(), { code: "io" });
});

test("more connections come with load, where the server keeps them coherent", async () => {
  for (const [flags, connections, most] of [
    [MULTI, undefined, 4],
    [MULTI, 2, 2],
    [MULTI & ~FLAG.CAN_MULTI_CONN, undefined, 1],
  ] as const) {
    await using server = await FakeNbdServer.start({ flags });
    await using link = await connected(server, { connections });
    await link.disk.read(0, Buffer.alloc(512));
    assert.equal(server.peers.length, 1);
    for (let round = 0; round < 20; round++) {
      await Promise.all(Array.from({ length: 32 }, (_, index) => link.disk.read(512 * index, Buffer.alloc(512))));
    }
    assert.equal(server.peers.length, most);
    // One that breaks is no loss.
    const reading = Array.from({ length: 32 }, (_, index) => link.disk.read(512 * index, Buffer.alloc(512)));
    server.peers[0]!.socket.destroy();
    await Promise.all(reading);
    assert.deepEqual(link.told, []);
  }
});

test("closing waits for what is under way, flushes, and says goodbye", async () => {
  await using hold = await holding(COMMAND.WRITE);
  await using link = await connected(hold.server);
  const writing = link.disk.write(0, Buffer.from("last"));
  await until(() => hold.held.length === 1);
  const closing = link.disk.close();
  hold.release();
  await Promise.all([writing, closing]);
  assert.deepEqual(
    hold.server.requests.map(({ command }) => command),
    [COMMAND.WRITE, COMMAND.FLUSH, COMMAND.DISC],
  );
});

test("closing does not wait for a server that is gone", async () => {
  await using hold = await holding();
  await using link = await connected(hold.server, { patienceMs: 100_000 });
  await hold.server.stop();
  const reading = link.disk.read(0, Buffer.alloc(512));
  await until(() => link.told.length === 1);
  const closing = link.disk.close();
  await assert.rejects(reading, { code: "shutdown" });
  await closing;
});
