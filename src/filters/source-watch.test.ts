import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { StreamdiskError } from "../errors/index.ts";
import { Faults, type SourceHealth, SourceWatch } from "./index.ts";

const LENGTH = 2 ** 20;

function source() {
  const clock = new ManualClock();
  const faults = new Faults(MemoryNode.of(new Uint8Array(LENGTH).fill(7), { name: "base" }), { clock });
  const told: SourceHealth[] = [];
  const watch = new SourceWatch(faults, { clock, onHealth: (health) => told.push(health) });
  const states = () => told.map(({ state, since }) => `${state}@${since}`);
  return { clock, faults, watch, told, states };
}

const buffer = () => new Uint8Array(512);
const LOST = { code: "source-lost" };

test("while it is lost a probe alone asks it, at growing intervals, for what it owes", async () => {
  const { clock, faults, watch, told, states } = source();
  await watch.read(0, buffer());
  await clock.advance(500);
  const revive = faults.add({ does: "source-lost" });
  await assert.rejects(watch.read(5000, buffer()), LOST);
  assert.equal(watch.health.state, "lost");
  const asked = faults.requests.length;
  for (let i = 0; i < 10; i++) {
    await assert.rejects(watch.read(i * 512, buffer()), (error) => error === watch.loss?.error);
    await assert.rejects(watch.extents(0, 512), LOST);
  }
  assert.equal(faults.requests.length, asked);
  await clock.advance(60_000);
  assert.deepEqual(clock.slept.slice(0, 8), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  assert.ok(faults.requests.slice(asked).every(({ offset, length }) => offset === 4608 && length === 512));
  let over = false;
  void watch.loss?.over.then(() => {
    over = true;
  });
  revive();
  await clock.advance(5000);
  assert.ok(over);
  assert.equal(watch.loss, undefined);
  await watch.read(5000, buffer());
  assert.deepEqual(states(), ["lost@500", `ok@${watch.health.since}`]);
  assert.match(told[0]?.error?.message ?? "", /'base'/);
});

test("requests that were under way when it was lost neither tell of another loss nor bring it back", async () => {
  const { clock, faults, watch, states } = source();
  faults.add({ times: 2, does: "freeze" });
  const good = watch.read(0, buffer());
  const bad = watch.read(512, buffer());
  await clock.advance(10);
  faults.add({ does: "source-lost" });
  await assert.rejects(watch.read(1024, buffer()), LOST);
  faults.thaw();
  await Promise.all([good, bad]);
  assert.deepEqual([watch.health.state, states()], ["lost", ["lost@10"]]);
});

test("whatever a source says when it fails, it is lost; the caller's own faults are not its", async () => {
  for (const code of ["protocol", "not-found", "permission", "unsupported", "io"] as const) {
    const { faults, watch } = source();
    faults.add({ does: code });
    await assert.rejects(watch.read(0, buffer()), (error) => {
      assert.ok(error instanceof StreamdiskError && error.code === "source-lost");
      assert.ok(error.cause instanceof StreamdiskError && error.cause.code === code);
      return true;
    });
    assert.equal(watch.health.state, "lost");
  }
  const { faults, watch } = source();
  await assert.rejects(watch.read(LENGTH, buffer()), { code: "invalid-argument" });
  const stop = new AbortController();
  stop.abort();
  await assert.rejects(watch.read(0, buffer(), stop.signal), { name: "AbortError" });
  faults.add({ does: "shutdown" });
  await assert.rejects(watch.read(0, buffer()), { code: "shutdown" });
  assert.equal(watch.health.state, "ok");
});

test("a bad spot is not a loss: all else goes on at once", async () => {
  const { clock, faults, watch, states } = source();
  const heal = faults.add({ range: { offset: 8192, length: 1 }, does: "io" });
  const [bad, good] = await Promise.allSettled([watch.read(8000, buffer()), watch.read(0, buffer())]);
  assert.equal(bad.status === "rejected" && (bad.reason as StreamdiskError).code, "source-lost");
  assert.equal(good.status, "fulfilled");
  assert.deepEqual([watch.loss, states()], [undefined, []]);
  heal();
  await watch.read(8000, buffer());
  await clock.advance(0);
});

test("a source that fails everywhere with input/output errors is lost, and back as soon as it answers anywhere", async () => {
  const { clock, faults, watch, states } = source();
  const revive = faults.add({ does: "io" });
  await assert.rejects(watch.read(8192, buffer()), LOST);
  assert.equal(watch.health.state, "lost");
  faults.add({ range: { offset: 8192, length: 1 }, does: "io" });
  revive();
  await clock.advance(100);
  assert.deepEqual(states(), ["lost@0", "ok@100"]);
});

test("one that does not answer is back only with what it owes", async () => {
  const { clock, faults, watch } = source();
  const heal = faults.add({ range: { offset: 8192, length: 1 }, does: "source-lost" });
  await assert.rejects(watch.read(8192, buffer()), LOST);
  await clock.advance(20_000);
  assert.equal(watch.health.state, "lost");
  heal();
  await clock.advance(5000);
  assert.equal(watch.health.state, "ok");
});

test("one that has changed is never back, whether a request or the probe finds it", async () => {
  const first = source();
  first.faults.add({ times: 1, does: "changed" });
  await assert.rejects(first.watch.read(0, buffer()), { code: "changed" });
  await assert.rejects(first.watch.read(0, buffer()), { code: "changed" });
  await assert.rejects(first.watch.extents(0, 1), { code: "changed" });
  await first.clock.advance(100_000);
  assert.deepEqual(first.states(), ["changed@0"]);

  const second = source();
  second.faults.add({ times: 2, does: "source-lost" });
  second.faults.add({ does: "changed" });
  await assert.rejects(second.watch.read(0, buffer()), LOST);
  const over = second.watch.loss?.over;
  await second.clock.advance(300);
  await over;
  await assert.rejects(second.watch.read(0, buffer()), { code: "changed" });
  assert.deepEqual(second.states(), ["lost@0", "changed@300"]);
});

test("a link that speaks for itself is believed: down before any request, up before the probe is due", async () => {
  const { clock, faults, watch, states } = source();
  const revive = faults.add({ does: "source-lost" });
  watch.noteLink(false, new StreamdiskError("source-lost", "The server hung up"));
  await assert.rejects(watch.read(0, buffer()), { message: "The server hung up" });
  await clock.advance(10_000);
  watch.noteLink(true);
  await clock.advance(0);
  assert.equal(watch.health.state, "lost");
  revive();
  watch.noteLink(true);
  await clock.advance(0);
  watch.noteLink(true);
  assert.deepEqual(states(), ["lost@0", "ok@10000"]);
});

test("closing ends the probe and wakes who waits for it", async () => {
  const { clock, faults, watch } = source();
  faults.add({ does: "source-lost" });
  await assert.rejects(watch.read(0, buffer()), LOST);
  const over = watch.loss?.over;
  await watch.close();
  await over;
  const asked = faults.requests.length;
  await clock.advance(60_000);
  assert.equal(faults.requests.length, asked);
});

test("a source of a few bytes, and of none, can be probed", async () => {
  for (const length of [0, 100]) {
    const clock = new ManualClock();
    const faults = new Faults(MemoryNode.of(new Uint8Array(length)), { clock });
    const watch = new SourceWatch(faults, { clock });
    faults.add({ times: 3, does: "io" });
    await assert.rejects(watch.read(0, new Uint8Array(length)), LOST);
    await clock.advance(1000);
    assert.equal(watch.health.state, "ok");
  }
});
