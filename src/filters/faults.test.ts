import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { rng } from "../../test/support/seed.ts";
import { Faults } from "./faults.ts";

const bytes = () => new Uint8Array(512);
const codes = (results: PromiseSettledResult<unknown>[]) =>
  results.map((result) => (result.status === "fulfilled" ? "ok" : (result.reason as { code: string }).code));

test("a fault has its operations, its range, its beginning and its end, and can be lifted", async () => {
  const node = new Faults(new MemoryNode(4096));
  const lift = node.add({ operations: ["read"], range: { offset: 1024, length: 1 }, after: 1, times: 2, does: "io" });
  const reads = [];
  for (const offset of [0, 1024, 1536, 1024, 600, 1024]) reads.push(await codesOf(node.read(offset, bytes())));
  assert.deepEqual(reads, ["ok", "ok", "ok", "io", "io", "ok"]);
  await node.write(1024, bytes());
  lift();
  node.add({ does: "source-lost" });
  lift();
  assert.equal(await codesOf(node.extents(0, 512)), "source-lost");
  assert.deepEqual(node.requests[2], { operation: "read", offset: 1536, length: 512 });
});

async function codesOf(promise: Promise<unknown>): Promise<string | undefined> {
  return codes(await Promise.allSettled([promise]))[0];
}

test("chance comes from the numbers that are given", async () => {
  const run = async () => {
    const node = new Faults(new MemoryNode(4096), { random: rng("faults") });
    node.add({ chance: 0.5, does: "io" });
    return codes(await Promise.allSettled(Array.from({ length: 64 }, () => node.read(0, bytes()))));
  };
  const first = await run();
  assert.deepEqual(await run(), first);
  assert.deepEqual(new Set(first), new Set(["ok", "io"]));
});

test("a request that is late has its effect late; one that is frozen has none before it is let go", async () => {
  const clock = new ManualClock();
  const memory = new MemoryNode(4096);
  const node = new Faults(memory, { clock });
  node.add({ operations: ["write"], times: 1, does: { delayMs: 100 } });
  node.add({ operations: ["write"], does: "freeze" });
  const late = node.write(0, bytes().fill(1));
  const frozen = node.write(512, bytes().fill(2));
  const seen = new Uint8Array(1024);
  await clock.advance(99);
  await memory.read(0, seen);
  assert.deepEqual([seen[0], seen[512]], [0, 0]);
  await clock.advance(1);
  await late;
  assert.equal(node.frozen, 1);
  node.thaw();
  await frozen;
  await memory.read(0, seen);
  assert.deepEqual([seen[0], seen[512]], [1, 2]);
  assert.equal(node.mostUnderWay, 2);
});

test("a read that is not waited for any more leaves its caller's memory alone, however late it ends", async () => {
  const node = new Faults(MemoryNode.of(bytes().fill(1)));
  node.add({ does: "freeze" });
  const target = bytes();
  const stop = new AbortController();
  const read = node.read(0, target, stop.signal);
  stop.abort(new Error("enough"));
  await assert.rejects(read, /enough/);
  node.thaw();
  await new Promise(setImmediate);
  assert.deepEqual(target, bytes());
});

test("what is frozen when it is closed fails", async () => {
  const node = new Faults(new MemoryNode(4096));
  node.add({ does: "freeze" });
  const read = node.read(0, bytes());
  const failed = assert.rejects(read, { code: "shutdown" });
  await node.close();
  await failed;
});
