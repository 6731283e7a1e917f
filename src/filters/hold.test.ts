import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { memoryImage } from "../../test/support/memory-image.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { overlayTarget, StreamJob } from "../stream/index.ts";
import { CopyOnRead, ExtentCache, Faults, Hold, type HoldOptions, SourceWatch } from "./index.ts";

const K64 = 65536;
const LENGTH = 32 * K64;
const FOREVER = Number.POSITIVE_INFINITY;

/** A disk as the engine puts it together. Clusters 0 and 1 are local, 30 and 31 zero below, the rest is missing. */
async function makeDisk(options: Partial<HoldOptions> & Pick<HoldOptions, "policy">) {
  const clock = new ManualClock();
  const content = new Uint8Array(LENGTH).fill(7);
  const memory = new MemoryNode(LENGTH, { name: "base" });
  await memory.write(0, content.subarray(0, 30 * K64));
  const source = new Faults(memory, { clock });
  const watch = new SourceWatch(source, { clock });
  const overlay = await memoryImage("qcow2", { size: LENGTH, backing: new ExtentCache(watch) });
  await overlay.write(0, new Uint8Array(2 * K64).fill(1));
  let pauses = 0;
  const onPause = () => {
    pauses++;
  };
  const copyOnRead = new CopyOnRead(overlay, { clock });
  const hold = new Hold(copyOnRead, { clock, onPause, watches: [watch], ...options });
  const read = async (cluster: number, signal?: AbortSignal) => {
    const bytes = new Uint8Array(512).fill(0xee);
    await hold.read(cluster * K64, bytes, signal);
    return bytes[0];
  };
  await read(29);
  await clock.advance(1000);
  return { clock, source, watch, overlay, copyOnRead, hold, read, pauses: () => pauses };
}

/** Follows a request: "…" while it is under way, then the error's code or the first byte. */
function follow(promise: Promise<unknown>): { now: unknown } {
  const seen: { now: unknown } = { now: "…" };
  promise.then(
    (value) => {
      seen.now = value;
    },
    (error: { code?: string; name: string }) => {
      seen.now = typeof error.code === "string" ? error.code : error.name;
    },
  );
  return seen;
}

test("hold: requests wait as long as it takes, and are answered when the source is back", async () => {
  const { clock, source, hold, read, pauses } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  const reading = follow(read(5));
  const caching = follow(hold.cache(7 * K64, 512));
  await clock.advance(3600_000);
  assert.deepEqual([reading.now, caching.now, hold.held], ["…", "…", 2]);
  revive();
  await clock.advance(5000);
  assert.deepEqual([reading.now, caching.now, hold.held, pauses()], [7, undefined, 0, 0]);
});

test("what is local, and what is known to be zero, is answered all the time; writes of it too", async () => {
  const { clock, source, hold, read } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  source.add({ does: "source-lost" });
  const held = Array.from({ length: 8 }, (_, i) => follow(read(5 + i)));
  await clock.advance(1000);
  assert.equal(hold.held, 8);
  assert.deepEqual([await read(0), await read(1), await read(30), await read(31)], [1, 1, 0, 0]);
  await hold.write(100, new Uint8Array(100).fill(3));
  await hold.write(3 * K64, new Uint8Array(K64).fill(4));
  await hold.writeZeroes(4 * K64, K64);
  await hold.write(30 * K64 + 5, new Uint8Array(5).fill(5));
  await hold.flush();
  assert.deepEqual([await read(3), await read(4)], [4, 0]);
  assert.ok(held.every(({ now }) => now === "…"));
});

test("a write of part of what is missing is held as well, and done when the source is back", async () => {
  const { clock, source, hold, read } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  const writing = follow(hold.write(5 * K64, new Uint8Array(100).fill(9)));
  const zeroing = follow(hold.writeZeroes(6 * K64 + 100, 2 * K64));
  await clock.advance(3600_000);
  assert.deepEqual([writing.now, zeroing.now, hold.held], ["…", "…", 2]);
  revive();
  await clock.advance(5000);
  assert.deepEqual([writing.now, zeroing.now], [undefined, undefined]);
  const bytes = new Uint8Array(4 * K64);
  await hold.read(5 * K64, bytes);
  assert.deepEqual([bytes[0], bytes[99], bytes[100], bytes[K64 + 99]], [9, 9, 7, 7]);
  assert.deepEqual([bytes[K64 + 100], bytes[3 * K64 + 99], bytes[3 * K64 + 100]], [0, 0, 7]);
  assert.equal(await read(9), 7);
});

test("hold:30s,error: the time counts from the loss, for all together, once", async () => {
  const { clock, source, hold, read, watch, pauses } = await makeDisk({
    policy: { holdMs: 30_000, afterwards: "error" },
  });
  source.add({ does: "source-lost" });
  const first = follow(read(5));
  await clock.advance(20_000);
  const second = follow(read(6));
  await clock.advance(9_999);
  assert.deepEqual([first.now, second.now], ["…", "…"]);
  await clock.advance(1);
  assert.deepEqual([first.now, second.now], ["source-lost", "source-lost"]);
  // From now on at once, however many.
  for (let i = 0; i < 20; i++) {
    const again = follow(read(5 + i));
    await clock.advance(0);
    assert.equal(again.now, "source-lost");
  }
  assert.deepEqual([hold.held, watch.health.state, pauses()], [0, "lost", 0]);
  assert.equal(await read(0), 1);
});

test("back in between: a later loss has all of its time again", async () => {
  const { clock, source, read } = await makeDisk({ policy: { holdMs: 30_000, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  const first = follow(read(5));
  await clock.advance(25_000);
  revive();
  await clock.advance(5_000);
  assert.equal(first.now, 7);
  source.add({ does: "source-lost" });
  const second = follow(read(6));
  await clock.advance(29_999);
  assert.equal(second.now, "…");
  await clock.advance(1);
  assert.equal(second.now, "source-lost");
});

test("error: at once", async () => {
  const { clock, source, read, hold } = await makeDisk({ policy: { holdMs: 0, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  await assert.rejects(read(5), { code: "source-lost" });
  await assert.rejects(read(5), { code: "source-lost" });
  await assert.rejects(hold.write(5 * K64, new Uint8Array(1)), { code: "source-lost" });
  revive();
  await clock.advance(5000);
  assert.equal(await read(5), 7);
});

test("pause: the hook is called before the error, for every request that meets it", async () => {
  const { clock, source, read, pauses } = await makeDisk({ policy: { holdMs: 10_000, afterwards: "pause" } });
  source.add({ does: "source-lost" });
  const first = follow(read(5));
  await clock.advance(9_999);
  assert.deepEqual([first.now, pauses()], ["…", 0]);
  await clock.advance(1);
  assert.deepEqual([first.now, pauses()], ["source-lost", 1]);
  await assert.rejects(read(5), { code: "source-lost" });
  assert.equal(pauses(), 2);
});

test("more than may be held get the error at once; readers of one fetch count each", async () => {
  const { clock, source, read, hold } = await makeDisk({
    policy: { holdMs: FOREVER, afterwards: "error" },
    mostHeld: 3,
  });
  const revive = source.add({ does: "source-lost" });
  const reads = [5, 5, 5, 5, 6].map((cluster) => follow(read(cluster)));
  await clock.advance(0);
  assert.deepEqual(
    reads.map(({ now }) => now),
    ["…", "…", "…", "source-lost", "source-lost"],
  );
  revive();
  await clock.advance(100);
  assert.deepEqual([reads.slice(0, 3).map(({ now }) => now), hold.held], [[7, 7, 7], 0]);
});

test("a long read is one request, in however many pieces it is fetched", async () => {
  const { clock, source, hold } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" }, mostHeld: 1 });
  const revive = source.add({ does: "source-lost" });
  const target = new Uint8Array(LENGTH);
  const reading = follow(hold.read(0, target));
  await clock.advance(1000);
  assert.deepEqual([reading.now, hold.held], ["…", 1]);
  revive();
  await clock.advance(1000);
  assert.equal(reading.now, undefined);
  const counts = [0, 1, 7].map((value) => target.filter((byte) => byte === value).length / K64);
  assert.deepEqual(counts, [2, 2, 28]);
});

test("a request in several calls takes one place, and each client has places of its own", async () => {
  const { clock, source, hold } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" }, mostHeld: 2 });
  const revive = source.add({ does: "source-lost" });
  const [one, other] = [hold.connect(), hold.connect()];
  const reading = (request: ReturnType<typeof one>, cluster: number) =>
    follow(request.read(cluster * K64, new Uint8Array(512)));
  const large = one();
  const held = [5, 6, 7, 8].map((cluster) => reading(large, cluster));
  held.push(reading(one(), 9), reading(other(), 10));
  const tooMany = reading(one(), 11);
  await clock.advance(0);
  assert.ok(held.every(({ now }) => now === "…"));
  assert.deepEqual([tooMany.now, hold.held], ["source-lost", 3]);
  revive();
  await clock.advance(5000);
  assert.ok(held.every(({ now }) => now === undefined));
  assert.equal(hold.held, 0);
});

test("a loss that comes and goes takes nobody's place", async () => {
  const { clock, source, read, hold } = await makeDisk({
    policy: { holdMs: FOREVER, afterwards: "error" },
    mostHeld: 2,
  });
  // The probe gets through now and then, and what was held does not.
  source.add({ operations: ["read"], range: { offset: 5 * K64 + 512, length: K64 }, does: "source-lost" });
  const held = [follow(read(5)), follow(read(5))];
  for (let i = 0; i < 50; i++) {
    await clock.advance(700);
    const late = follow(read(6));
    await clock.advance(0);
    assert.ok(late.now === 7 || late.now === "source-lost");
  }
  assert.deepEqual([held.map(({ now }) => now), hold.held], [["…", "…"], 2]);
});

test("a bad spot: its readers are held by a time of their own, all others are not", async () => {
  const { clock, source, read, watch } = await makeDisk({ policy: { holdMs: 30_000, afterwards: "error" } });
  source.add({ operations: ["read"], range: { offset: 5 * K64, length: K64 }, does: "io" });
  const bad = follow(read(5));
  for (let cluster = 6; cluster < 16; cluster++) {
    await clock.advance(1000);
    assert.equal(await read(cluster), 7);
    assert.equal(watch.health.state, "ok");
  }
  await clock.advance(19_999);
  assert.equal(bad.now, "…");
  await clock.advance(1);
  assert.equal(bad.now, "source-lost");
});

test("changed is final: whoever waits is told, whoever comes is told at once", async () => {
  const { clock, source, read } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  const waiting = follow(read(5));
  await clock.advance(1000);
  revive();
  source.add({ does: "changed" });
  await clock.advance(5000);
  assert.equal(waiting.now, "changed");
  await assert.rejects(read(6), { code: "changed" });
  assert.deepEqual([await read(0), await read(31)], [1, 0]);
});

test("a signal ends the wait of its request alone", async () => {
  const { clock, source, read, hold } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  source.add({ does: "source-lost" });
  const stop = new AbortController();
  const [one, other] = [follow(read(5, stop.signal)), follow(read(5))];
  await clock.advance(1000);
  stop.abort();
  await clock.advance(0);
  assert.deepEqual([one.now, other.now, hold.held], ["AbortError", "…", 1]);
});

test("closing ends every wait, and leaves nothing locked", async () => {
  const { clock, source, read, hold, overlay } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  source.add({ does: "source-lost" });
  const waiting = [read(5), hold.write(6 * K64, new Uint8Array(9)), hold.cache(7 * K64, 1)].map(follow);
  await clock.advance(1000);
  await hold.close();
  await clock.advance(0);
  assert.deepEqual(
    waiting.map(({ now }) => now),
    ["shutdown", "shutdown", "shutdown"],
  );
  await assert.rejects(read(8), { code: "shutdown" });
  await overlay.close();
});

test("the stream takes nobody's place: it waits by itself, and goes on when the source is back", async () => {
  const { clock, source, hold, overlay, read } = await makeDisk({
    policy: { holdMs: FOREVER, afterwards: "error" },
    mostHeld: 1,
  });
  const job = new StreamJob(overlayTarget(overlay), { clock, retryFor: FOREVER, chunk: K64 });
  const revive = source.add({ after: 5, does: "source-lost" });
  const done = follow(job.run());
  await clock.advance(60_000);
  assert.equal(job.progress.state, "waiting");
  assert.equal(job.progress.reason?.code, "source-lost");
  const held = follow(read(28));
  await clock.advance(60_000);
  assert.deepEqual([held.now, hold.held], ["…", 1]);
  revive();
  await clock.advance(30_000);
  assert.deepEqual([held.now, done.now, job.progress.state, overlay.backing], [7, undefined, "completed", undefined]);
});

test("the link dropped while requests are held: they get what is there", async () => {
  const { clock, source, hold, overlay, watch, read } = await makeDisk({
    policy: { holdMs: FOREVER, afterwards: "error" },
  });
  source.add({ does: "source-lost" });
  const held = [follow(read(5)), follow(hold.write(6 * K64 + 5, new Uint8Array(5).fill(8)))];
  await clock.advance(1000);
  await overlay.populate(0, new Uint8Array(LENGTH).fill(7));
  await overlay.changeBacking(undefined, undefined);
  await watch.close();
  await clock.advance(5000);
  assert.deepEqual(
    held.map(({ now }) => now),
    [7, undefined],
  );
  const bytes = new Uint8Array(16);
  await hold.read(6 * K64, bytes);
  assert.deepEqual([bytes[4], bytes[5], bytes[9], bytes[10]], [7, 8, 8, 7]);
});

test("pause: when one request meets it before its time, all that wait do", async () => {
  const { clock, source, read, hold, pauses } = await makeDisk({
    policy: { holdMs: FOREVER, afterwards: "pause" },
    mostHeld: 2,
  });
  source.add({ does: "source-lost" });
  const held = [follow(read(5)), follow(read(6))];
  await clock.advance(1000);
  assert.deepEqual([held.map(({ now }) => now), pauses()], [["…", "…"], 0]);
  await assert.rejects(read(7), { code: "source-lost" });
  await clock.advance(0);
  assert.deepEqual([held.map(({ now }) => now), hold.held], [["source-lost", "source-lost"], 0]);
});

test("before a machine is stopped all that waits fails, and what comes until it is released", async () => {
  const { clock, source, read, hold } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  const revive = source.add({ does: "source-lost" });
  const held = [follow(read(5)), follow(hold.write(6 * K64, new Uint8Array(100)))];
  await clock.advance(1000);
  await clock.runUntil(hold.failHeld());
  assert.deepEqual([held.map(({ now }) => now), hold.held], [["source-lost", "source-lost"], 0]);
  await assert.rejects(read(7), { code: "source-lost" });
  assert.equal(await read(0), 1);
  hold.release();
  const later = follow(read(7));
  await clock.advance(1000);
  assert.equal(later.now, "…");
  revive();
  await clock.advance(5000);
  assert.equal(later.now, 7);
});

test("a source that owes answers is not waited for by a machine that is to be stopped, and back when it answers", async () => {
  const { clock, source, read, hold, watch } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  const lift = source.add({ does: "freeze" });
  const owed = [follow(read(5)), follow(hold.write(6 * K64, new Uint8Array(100)))];
  await clock.advance(1000);
  assert.deepEqual([owed.map(({ now }) => now), watch.health.state], [["…", "…"], "ok"]);
  await clock.runUntil(hold.failHeld());
  assert.deepEqual([owed.map(({ now }) => now), watch.health.state], [["source-lost", "source-lost"], "lost"]);
  hold.release();
  lift();
  source.thaw();
  await clock.advance(5000);
  assert.deepEqual([await read(5), watch.health.state], [7, "ok"]);
});

test("a source that is only slow is waited for a moment, and not taken for lost", async () => {
  const { clock, source, read, hold, watch } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  source.add({ does: { delayMs: 200 } });
  const slow = follow(read(5));
  await clock.advance(0);
  await clock.runUntil(hold.failHeld());
  hold.release();
  assert.deepEqual([slow.now, watch.health.state], [7, "ok"]);
});

test("another policy counts for those that wait already", async () => {
  const { clock, source, read, hold, pauses } = await makeDisk({ policy: { holdMs: FOREVER, afterwards: "error" } });
  source.add({ does: "source-lost" });
  const held = follow(read(5));
  await clock.advance(20_000);
  hold.setPolicy({ holdMs: 30_000, afterwards: "pause" });
  await clock.advance(9_999);
  assert.deepEqual([held.now, pauses()], ["…", 0]);
  await clock.advance(1);
  assert.deepEqual([held.now, pauses()], ["source-lost", 1]);
});

test("a relay tells of a loss as such, so that those who ask may wait by themselves", async () => {
  const { clock, source, read } = await makeDisk({ policy: { holdMs: 0, afterwards: "error" }, relay: true });
  source.add({ does: "source-lost" });
  const reading = follow(read(5));
  await clock.advance(1000);
  assert.equal(reading.now, "shutdown");
  assert.equal(await read(0), 1, "what is local is there");
});
