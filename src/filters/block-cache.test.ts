import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { between, chance, oneOf } from "../../test/support/draw.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { rng } from "../../test/support/seed.ts";
import { BlockCache, Faults } from "./index.ts";

const BLOCK = 65536;
const MIB = 2 ** 20;
const LENGTH = 8 * MIB + 1000;

const content = new Uint8Array(LENGTH);
for (let i = 0; i < LENGTH; i++) content[i] = 1 + ((i * 7 + (i >> 9)) % 251);

function cacheOf(mostBytes: number, bytes = content, random = () => 0, growsTo = mostBytes) {
  const faults = new Faults(MemoryNode.of(bytes), { random });
  const node = new BlockCache(faults, { bytes: mostBytes, growsTo });
  const read = async (offset: number, length: number) => {
    const target = new Uint8Array(length).fill(0xee);
    await node.read(offset, target);
    assert.equal(Buffer.compare(target, bytes.subarray(offset, offset + length)), 0, `${length} bytes at ${offset}`);
  };
  const walk = async (from: number, to: number, step: number) => {
    for (let at = from; at < to; at += step) await read(at, Math.min(step, to - at));
  };
  const asked = () => faults.requests.map(({ offset, length }) => `${offset}+${length}`);
  const fetched = () => faults.requests.reduce((sum, { length }) => sum + length, 0);
  return { faults, node, read, walk, asked, fetched };
}

async function quiet(): Promise<void> {
  for (let i = 0; i < 10; i++) await nextTurn();
}

test("what was read is read again without the source, in any pieces", async () => {
  const { node, walk, read, asked, fetched } = cacheOf(16 * MIB);
  await walk(0, LENGTH, MIB);
  assert.equal(fetched(), LENGTH);
  const before = asked().length;
  await walk(0, LENGTH, 10_000);
  await read(0, LENGTH);
  const target = new Uint8Array(100_000);
  assert.ok(node.readNow(BLOCK - 5, target));
  assert.equal(Buffer.compare(target, content.subarray(BLOCK - 5, BLOCK - 5 + target.length)), 0);
  assert.equal(asked().length, before);
  assert.ok(!cacheOf(MIB).node.readNow(0, target));
});

test("readers at the same time share what is on its way, and neighbours are one request", async () => {
  const { faults, read, asked } = cacheOf(16 * MIB);
  faults.add({ does: "freeze" });
  const readers = [read(0, 4096), read(100, 10), read(2 * BLOCK, 2 * BLOCK), read(0, 6 * BLOCK)];
  await quiet();
  faults.thaw();
  await quiet();
  faults.thaw();
  await Promise.all(readers);
  assert.deepEqual(asked(), [
    `0+${BLOCK}`,
    `${2 * BLOCK}+${2 * BLOCK}`,
    `${BLOCK}+${BLOCK}`,
    `${4 * BLOCK}+${2 * BLOCK}`,
  ]);
});

test("what was read longest ago makes room; many behind one another cost as much as one", async () => {
  const { read, walk, asked } = cacheOf(4 * BLOCK);
  await walk(0, 4 * BLOCK, BLOCK);
  await read(0, 1);
  await read(4 * BLOCK, 1);
  const before = asked().length;
  await read(0, BLOCK);
  assert.equal(asked().length, before, "it was read lately");
  await read(BLOCK, 1);
  assert.equal(asked().length, before + 1, "it had to go");

  const storm = cacheOf(MIB);
  storm.faults.add({ does: { delayMs: 1 } });
  const late = async (behind: number) => {
    for (let turn = 0; turn < behind; turn++) await nextTurn();
    await storm.walk(0, LENGTH, BLOCK);
  };
  await Promise.all(Array.from({ length: 8 }, (_, i) => late(i)));
  assert.equal(storm.fetched(), LENGTH);
});

test("the bound grows while what had to go is asked for again, and not for one reader", async () => {
  const apart = 3 * MIB;
  const both = async ({ walk }: ReturnType<typeof cacheOf>) => {
    for (let at = 0; at < LENGTH + apart; at += BLOCK) {
      await walk(at, Math.min(at + BLOCK, LENGTH), BLOCK);
      if (at >= apart) await walk(at - apart, Math.min(at - apart + BLOCK, LENGTH), BLOCK);
    }
  };
  const fixed = cacheOf(MIB);
  await both(fixed);
  assert.equal(fixed.fetched(), 2 * LENGTH);
  const growing = cacheOf(MIB, content, () => 0, 16 * MIB);
  await both(growing);
  assert.ok(growing.fetched() < 1.3 * LENGTH, `${growing.fetched()} of ${LENGTH} bytes`);
  const bounded = cacheOf(MIB, content, () => 0, 2 * MIB);
  await both(bounded);
  assert.equal(bounded.fetched(), 2 * LENGTH);

  const alone = cacheOf(MIB, content, () => 0, 16 * MIB);
  await alone.walk(0, LENGTH, BLOCK);
  const before = alone.asked().length;
  await alone.read(LENGTH - MIB + BLOCK, MIB - BLOCK);
  assert.equal(alone.asked().length, before);
  await alone.read(LENGTH - MIB - 3 * BLOCK, BLOCK);
  assert.equal(alone.asked().length, before + 1, "nothing older is kept");
});

test("zeroes take no room", async () => {
  const bytes = content.slice();
  bytes.fill(0, BLOCK, 100 * BLOCK);
  const { walk, fetched } = cacheOf(2 * BLOCK, bytes);
  await walk(BLOCK, 100 * BLOCK, MIB);
  await walk(BLOCK, 100 * BLOCK, 1000);
  assert.equal(fetched(), 99 * BLOCK);
});

test("what is on its way is bounded", async () => {
  const bytes = new Uint8Array(64 * MIB).fill(1);
  const { faults, node, read } = cacheOf(MIB, bytes);
  const lift = faults.add({ does: "freeze" });
  const readers = Array.from({ length: 64 }, (_, i) => read(i * MIB, MIB));
  await quiet();
  assert.equal(faults.frozen, 16);
  lift();
  faults.thaw();
  await Promise.all(readers);
  await node.close();
  await assert.rejects(node.read(0, new Uint8Array(1)), { code: "shutdown" });
});

test("a failure is told to those whose bytes failed, and nothing of it is kept", async () => {
  const { faults, read } = cacheOf(16 * MIB);
  const lift = faults.add({ range: { offset: 2 * BLOCK, length: 1 }, does: "io" });
  const outcomes = await Promise.allSettled([read(0, 4 * BLOCK), read(BLOCK, 100), read(3 * BLOCK, 100)]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ["rejected", "fulfilled", "fulfilled"],
  );
  lift();
  await read(0, 4 * BLOCK);
});

test("a reader that is not wanted any more ends alone, and its buffer is left alone", async () => {
  const { faults, node, read } = cacheOf(16 * MIB);
  faults.add({ does: "freeze" });
  const other = read(0, 512);
  const stop = new AbortController();
  const target = new Uint8Array(512).fill(0xdd);
  const reading = node.read(0, target, stop.signal);
  await quiet();
  stop.abort();
  await assert.rejects(reading, { name: "AbortError" });
  faults.thaw();
  await other;
  assert.ok(target.every((byte) => byte === 0xdd));
});

test("any readers at once, over a source that fails now and then, read what is there", async () => {
  const random = rng("block cache");
  let failed = 0;
  let done = 0;
  for (const mostBytes of [BLOCK, 10 * BLOCK, 4 * MIB]) {
    const bytes = content.slice();
    bytes.fill(0, 3 * MIB, 4 * MIB + 5);
    const { faults, node, read } = cacheOf(mostBytes, bytes, random, 2 * mostBytes);
    faults.add({ chance: 0.1, does: "source-lost" });
    const reader = async () => {
      for (let i = 0; i < 60; i++) {
        const offset = chance(random, 0.3) ? LENGTH - between(random, 1, BLOCK) : between(random, 0, LENGTH - 1);
        const length = Math.min(oneOf(random, [1, 512, 10_000, BLOCK, 200_000, 2 * MIB]), LENGTH - offset);
        if (chance(random, 0.2)) {
          const target = new Uint8Array(length);
          const isThere = node.readNow(offset, target);
          assert.ok(!isThere || Buffer.compare(target, bytes.subarray(offset, offset + length)) === 0);
        }
        const reading = read(offset, length).then(() => done++);
        await reading.catch((error: { code?: string }) => {
          assert.equal(error.code, "source-lost");
          failed++;
        });
      }
    };
    await Promise.all(Array.from({ length: 9 }, reader));
    await node.close();
  }
  assert.ok(failed > 0 && done > failed, `${failed} failed, ${done} did not`);
});
