import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { Faults, Timed } from "./index.ts";

const LIMIT = 30_000;

function source() {
  const clock = new ManualClock();
  const faults = new Faults(MemoryNode.of(new Uint8Array(8192).fill(7)), { clock });
  return { clock, faults, node: new Timed(faults, { timeoutMs: LIMIT, clock }) };
}

const buffer = () => new Uint8Array(512).fill(0xee);

test("what is answered in time is passed on, and no more are under way at once than there are slots", async () => {
  const { clock, faults, node } = source();
  faults.add({ does: { delayMs: 10 } });
  const targets = Array.from({ length: 7 }, buffer);
  const extents = node.extents(0, 100);
  await clock.runUntil(Promise.all(targets.map((target, i) => node.read(i * 512, target))));
  assert.ok(targets.every((target) => target.every((byte) => byte === 7)));
  assert.equal((await extents)[0]?.kind, "data");
  assert.equal(faults.mostUnderWay, 2);
});

test("what is not answered in time is lost, and its end is none of its caller's any more", async () => {
  const { clock, faults, node } = source();
  faults.add({ times: 1, does: "freeze" });
  const target = buffer();
  const lost = assert.rejects(node.read(0, target), { code: "source-lost", message: /did not answer within 30000 ms/ });
  await clock.advance(LIMIT - 1);
  await node.read(512, buffer());
  await clock.advance(1);
  await lost;
  faults.thaw();
  await clock.advance(1000);
  assert.ok(target.every((byte) => byte === 0xee));
});

test("requests that hang keep their slots, and all behind them are lost in time", async () => {
  const { clock, faults, node } = source();
  const lift = faults.add({ does: "freeze" });
  const lost = (count: number) => {
    const reads = Array.from({ length: count }, () => assert.rejects(node.read(0, buffer()), { code: "source-lost" }));
    return Promise.all(reads);
  };
  const first = lost(5);
  await clock.advance(LIMIT);
  await first;
  assert.equal(faults.requests.length, 2);
  const second = lost(3);
  await clock.advance(LIMIT);
  await second;
  assert.equal(faults.requests.length, 2);
  const waiting = node.extents(0, 512);
  await clock.advance(LIMIT / 2);
  lift();
  faults.thaw();
  // The slots go to who waits now, and are there again afterwards.
  await waiting;
  await Promise.all([node.read(0, buffer()), node.read(0, buffer()), node.read(0, buffer())]);
});

test("a failure gives its slot back, also one that comes at once", async () => {
  const { clock, faults, node } = source();
  const lift = faults.add({ does: "io" });
  for (let i = 0; i < 5; i++) await assert.rejects(node.read(0, buffer()), { code: "io" });
  lift();
  const broken = new MemoryNode(512);
  broken.read = () => {
    throw new Error("at once");
  };
  const other = new Timed(broken, { timeoutMs: LIMIT, clock });
  for (let i = 0; i < 3; i++) await assert.rejects(other.read(0, buffer()), { message: "at once" });
  await node.read(0, buffer());
});

test("whoever wants its answer no more waits no more, in the queue or for the source", async () => {
  const { clock, faults, node } = source();
  faults.add({ times: 2, does: "freeze" });
  const stop = new AbortController();
  const reads = Array.from({ length: 3 }, () => node.read(0, buffer(), stop.signal));
  const last = node.read(512, buffer());
  await clock.advance(1);
  stop.abort();
  for (const result of await Promise.allSettled(reads)) {
    assert.equal(result.status === "rejected" && (result.reason as Error).name, "AbortError");
  }
  await assert.rejects(node.read(0, buffer(), stop.signal), { name: "AbortError" });
  faults.thaw();
  await last;
});

test("closing does not wait for what hangs, and refuses what waits", async () => {
  const clock = new ManualClock();
  const stuck = new MemoryNode(8192);
  stuck.read = stuck.close = () => new Promise(() => {});
  const node = new Timed(stuck, { timeoutMs: LIMIT, clock });
  const hung = Promise.allSettled([node.read(0, buffer()), node.read(0, buffer())]);
  const waiting = assert.rejects(node.read(0, buffer()), { code: "shutdown" });
  await clock.advance(0);
  const closing = node.close();
  await waiting;
  await assert.rejects(node.read(0, buffer()), { code: "shutdown" });
  await clock.advance(LIMIT);
  await closing;
  await hung;
});
