import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { between, chance, oneOf } from "../../test/support/draw.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { rng } from "../../test/support/seed.ts";
import { ExtentCache, Faults, Readahead } from "./index.ts";

const K64 = 65536;
const MIB = 2 ** 20;
const LENGTH = 8 * MIB + 1000;

const content = new Uint8Array(LENGTH);
for (let i = 0; i < LENGTH; i++) content[i] = 1 + ((i * 7 + (i >> 9)) % 251);

function source(bytes = content) {
  const faults = new Faults(MemoryNode.of(bytes), { random: rng("readahead faults") });
  const node = new Readahead(faults);
  const walk = async (from: number, to: number, block: number) => {
    for (let at = from; at < to; at += block) await check(node, at, Math.min(block, to - at));
  };
  const asked = () => faults.requests.map(({ offset, length }) => `${offset}+${length}`);
  return { faults, node, walk, asked };
}

async function check(node: Readahead, offset: number, length: number): Promise<void> {
  const target = new Uint8Array(length).fill(0xee);
  await node.read(offset, target);
  assert.equal(Buffer.compare(target, content.subarray(offset, offset + length)), 0, `${length} bytes at ${offset}`);
}

async function quiet(): Promise<void> {
  for (let i = 0; i < 10; i++) await nextTurn();
}

test("a walk is one of few requests, none twice, and none past the end", async () => {
  const { walk, faults } = source();
  await walk(0, LENGTH, K64);
  const asked = [...faults.requests].sort((a, b) => a.offset - b.offset);
  assert.ok(asked.length < 40, `${asked.length} requests`);
  let end = 0;
  for (const { offset, length } of asked) {
    assert.equal(offset, end);
    end += length;
  }
  assert.equal(end, LENGTH);
});

test("reads here and there, long reads and many at once are left alone", async () => {
  const { node, asked } = source();
  const random = rng("readahead");
  for (let i = 0; i < 100; i++) await check(node, Math.floor(random() * 1000) * 8192, 4096);
  assert.ok(asked().every((request) => request.endsWith("+4096")));
  const long = source();
  await long.walk(0, 8 * MIB, MIB);
  assert.equal(long.asked().length, 8);
  const many = source();
  await Promise.all(Array.from({ length: 64 }, (_, i) => check(many.node, i * K64, K64)));
  assert.ok(many.asked().length >= 64 && many.asked().filter((request) => !request.endsWith(`+${K64}`)).length <= 2);
});

test("a walk over holes goes on behind them, and they are not fetched", async () => {
  const bytes = content.slice(0, 4 * MIB);
  bytes.fill(0, MIB, 3 * MIB);
  const memory = new MemoryNode(bytes.length);
  await memory.write(0, bytes.subarray(0, MIB));
  await memory.write(3 * MIB, bytes.subarray(3 * MIB));
  const faults = new Faults(memory);
  const node = new Readahead(new ExtentCache(faults));
  for (let at = 0; at < bytes.length; at += K64) {
    const target = new Uint8Array(K64);
    await node.read(at, target);
    assert.deepEqual(target, bytes.subarray(at, at + K64));
  }
  const reads = faults.requests.filter(({ operation }) => operation === "read");
  assert.ok(reads.every(({ offset, length }) => offset + length <= MIB || offset >= 3 * MIB));
});

test("a walk may take some bytes twice, as compressed clusters share sectors", async () => {
  const { node, asked } = source();
  for (let at = 0; at < 4 * MIB; at += 30_000) await check(node, at, 30_300);
  assert.ok(asked().length < 30, `${asked().length} requests`);
  // The same one again costs nothing.
  const before = asked().length;
  for (let i = 0; i < 10; i++) await check(node, 139 * 30_000, 30_300);
  assert.equal(asked().length, before);
});

test("what is ahead is bounded, for a walk and for all of them", async () => {
  const { faults, node, walk } = source();
  for (let i = 0; i < 6; i++) await walk(i * MIB, i * MIB + 4 * K64, K64);
  const settled = faults.requests.length;
  faults.add({ does: "freeze" });
  for (let i = 0; i < 6; i++) {
    for (let j = 4; j < 12; j++) void node.read(i * MIB + j * K64, new Uint8Array(K64)).catch(() => {});
    await quiet();
  }
  const ahead = faults.requests.slice(settled).filter(({ length }) => length > K64);
  assert.ok(ahead.reduce((sum, { length }) => sum + length, 0) <= 6 * 1.25 * MIB);
  await node.close();
});

test("what was used is dropped", async () => {
  const { walk, asked } = source();
  await walk(0, 2 * MIB, K64);
  const before = asked().length;
  await walk(0, 2 * K64, K64);
  assert.deepEqual(asked().slice(before), [`0+${K64}`, `${K64}+${K64}`]);
});

test("a failure ahead is nobody's; a failure of what is wanted is told, and what comes after is asked for again", async () => {
  const { faults, walk, node } = source();
  const lift = faults.add({ range: { offset: 512 * 1024, length: 1 }, does: "source-lost" });
  await walk(0, 512 * 1024, K64);
  await assert.rejects(check(node, 512 * 1024, K64), { code: "source-lost" });
  lift();
  await walk(512 * 1024, 2 * MIB, K64);
});

test("a reader that is not wanted any more ends, and its buffer is left alone", async () => {
  const { faults, walk, node } = source();
  await walk(0, 2 * K64, K64);
  faults.add({ does: "freeze" });
  const stop = new AbortController();
  const first = node.read(2 * K64, new Uint8Array(K64)).catch(() => {});
  await quiet();
  const target = new Uint8Array(512).fill(0xdd);
  const reading = node.read(4 * K64, target, stop.signal);
  await quiet();
  stop.abort();
  await assert.rejects(reading, { name: "AbortError" });
  faults.thaw();
  await first;
  assert.ok(target.every((byte) => byte === 0xdd));
});

test("any walks at once read what is there", async () => {
  const random = rng("readahead walks");
  const { faults, node } = source();
  faults.add({ chance: 0.05, does: "source-lost" });
  const outcomes = { right: 0, lost: 0 };
  const walker = async () => {
    for (let i = 0; i < 20; i++) {
      let at = between(random, 0, LENGTH - 1);
      const block = oneOf(random, [512, 4096, 10_000, K64, 200_000]);
      for (let reads = between(random, 1, 30); reads > 0 && at < LENGTH; reads--) {
        const length = Math.min(block, LENGTH - at);
        const lost = await check(node, at, length).then(
          () => false,
          (error: { code?: string }) => {
            assert.equal(error.code, "source-lost");
            return true;
          },
        );
        outcomes[lost ? "lost" : "right"]++;
        at += length + (chance(random, 0.1) ? between(random, 0, K64) : 0);
      }
    }
  };
  await Promise.all(Array.from({ length: 7 }, walker));
  assert.ok(outcomes.lost > 0 && outcomes.right > 2 * outcomes.lost, JSON.stringify(outcomes));
});
