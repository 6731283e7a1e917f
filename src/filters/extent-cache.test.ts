import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { type BlockNode, type Extent, layerExtents } from "../block/index.ts";
import { ExtentCache, Faults } from "./index.ts";

const MIB = 2 ** 20;
const REGION = 64 * MIB;

async function source(): Promise<{ memory: MemoryNode; faults: Faults; cache: ExtentCache }> {
  const memory = new MemoryNode(3 * REGION + 5000);
  for (const offset of [MIB, REGION - 20, 2 * REGION + 7 * MIB])
    await memory.write(offset, Buffer.from("some data here"));
  const faults = new Faults(memory);
  return { memory, faults, cache: new ExtentCache(faults) };
}

async function listed(node: BlockNode, offset: number, length: number): Promise<Extent[]> {
  const found: Extent[] = [];
  for await (const extent of layerExtents(node, offset, length)) found.push(extent);
  return found;
}

/** Neighbours of a kind as one, since regions cut them. */
function joined(extents: readonly Extent[]): string {
  let text = "";
  let last = "";
  for (const { kind, offset } of extents) {
    if (kind !== last) text += ` ${kind}@${offset}`;
    last = kind;
  }
  return text;
}

test("says what the source says, of any range", async () => {
  const { memory, cache } = await source();
  for (const [offset, length] of [
    [0, memory.length],
    [MIB + 5, 3],
    [REGION - 70_000, 140_000],
    [memory.length - 1, 1],
    [2 * REGION - 1, 9 * MIB],
  ] as const) {
    const found = await listed(cache, offset, length);
    assert.equal(joined(found), joined(await listed(memory, offset, length)), `${length} bytes at ${offset}`);
    assert.equal(
      found.reduce((sum, extent) => sum + extent.length, 0),
      length,
    );
    assert.ok(found.every((extent, i) => i === 0 || extent.offset === found[i - 1]!.offset + found[i - 1]!.length));
  }
});

test("asks once a region, however many want to know", async () => {
  const { faults, cache } = await source();
  await Promise.all([cache.extents(0, MIB), cache.extents(5 * MIB, 1), cache.read(9 * MIB, new Uint8Array(10))]);
  await cache.extents(0, REGION);
  assert.deepEqual(faults.requests, [{ operation: "map", offset: 0, length: REGION }]);
  await cache.extents(REGION, 1);
  assert.equal(faults.requests.length, 2);
});

test("asks for several regions at a time when more than one is wanted, and once each", async () => {
  const { memory, faults, cache } = await source();
  await cache.extents(0, REGION + 1);
  assert.deepEqual(
    faults.requests.map(({ offset }) => offset),
    [0, REGION],
  );
  await listed(cache, 0, memory.length);
  assert.deepEqual(
    faults.requests.map(({ offset }) => offset),
    [0, REGION, 2 * REGION, 3 * REGION],
  );
});

test("zeroes are answered without the source, also when it is dead; nothing that it has not spoken of is", async () => {
  const { faults, cache } = await source();
  await cache.extents(0, 1);
  await cache.read(REGION + MIB, new Uint8Array(1));
  const seen = faults.requests.length;
  faults.add({ does: "source-lost" });
  const target = new Uint8Array(2 * MIB).fill(0xee);
  await cache.read(REGION - 3 * MIB, target);
  assert.ok(target.every((byte) => byte === 0));
  assert.equal(faults.requests.length, seen);
  await assert.rejects(cache.read(MIB, new Uint8Array(512)), { code: "source-lost" });
  await assert.rejects(cache.read(2 * REGION, new Uint8Array(512)), { code: "source-lost" });
  await assert.rejects(cache.extents(2 * REGION, 512), { code: "source-lost" });
  assert.equal((await cache.extents(REGION + 5, 7))[0]?.kind, "zero");
});

test("what is remembered counts only while the source is lost", async () => {
  const { memory, faults } = await source();
  const cache = new ExtentCache(faults, { remembered: [[0, 2 * MIB]] });
  const target = Buffer.alloc(4096, 0xee);
  const lost = faults.add({ does: "source-lost" });
  await cache.read(MIB, target);
  assert(target.every((byte) => byte === 0));
  assert.deepEqual(await cache.extents(MIB, 4 * MIB), [{ offset: MIB, length: MIB, kind: "zero", depth: 0 }]);
  await assert.rejects(cache.extents(2 * MIB, 512), { code: "source-lost" });
  await assert.rejects(cache.read(2 * MIB - 512, new Uint8Array(1024)), { code: "source-lost" });
  assert.deepEqual(cache.zeroes(10), [[0, 2 * MIB]]);
  lost();
  for (const does of ["changed", "io"] as const) {
    const end = faults.add({ does });
    await assert.rejects(cache.read(MIB, target), { code: does });
    await assert.rejects(cache.extents(MIB, 512), { code: does });
    end();
  }
  // The source itself knows better.
  await cache.read(MIB, target);
  const truth = Buffer.alloc(4096);
  await memory.read(MIB, truth);
  assert(target.equals(truth) && target.includes("some data"));
  assert(cache.zeroes(10).every(([offset, length]) => offset > MIB || offset + length <= MIB));
});

test("what it failed to say is asked for again", async () => {
  const { faults, cache } = await source();
  faults.add({ operations: ["map"], times: 1, does: "io" });
  await assert.rejects(cache.extents(0, 1), { code: "io" });
  assert.equal((await cache.extents(0, 1))[0]?.kind, "zero");
  faults.add({ operations: ["map"], times: 1, does: "io" });
  const target = new Uint8Array(4);
  await cache.read(REGION, target);
  assert.ok(target.every((byte) => byte === 0));
});

test("of a layer that has one below it, what is missing is not zero", async () => {
  class Layer extends MemoryNode {
    override readonly backing = new MemoryNode(MIB) as never;
    override async extents(offset: number, length: number): Promise<Extent[]> {
      return [{ offset, length, kind: "missing", depth: 0 }];
    }
  }
  const layer = new Layer(MIB);
  await layer.write(0, Buffer.alloc(MIB, 7));
  const cache = new ExtentCache(layer);
  const target = new Uint8Array(1);
  await cache.read(0, target);
  assert.deepEqual([target[0], cache.knownZero(0, 1)], [7, false]);
});

test("a source in a million pieces takes bounded memory and is asked again for what was forgotten", async () => {
  let asked = 0;
  const length = 40 * REGION;
  const memory = new MemoryNode(length);
  memory.extents = async (offset, wanted) => {
    asked++;
    const pieces = Math.min(16384, wanted / 4096);
    return Array.from({ length: pieces }, (_, i) => {
      const kind = i % 2 === 0 ? "data" : "zero";
      return { offset: offset + i * 4096, length: 4096, kind, depth: 0 };
    });
  };
  const cache = new ExtentCache(memory);
  for (let region = 0; region < 40; region++) await cache.extents(region * REGION, 1);
  assert.equal(asked, 40);
  assert.equal(cache.knownZero(39 * REGION + 4096, 4096), true);
  assert.equal(cache.knownZero(4096, 4096), false);
  assert.equal((await cache.extents(4096, 4096))[0]?.kind, "zero");
  assert.equal(asked, 41);
});

test("ranges outside the source are refused", async () => {
  const { memory, cache } = await source();
  await assert.rejects(cache.extents(memory.length, 1), { code: "invalid-argument" });
  await assert.rejects(cache.extents(-1, 1), { code: "invalid-argument" });
  await assert.rejects(cache.read(memory.length - 1, new Uint8Array(2)), { code: "invalid-argument" });
  await assert.rejects(cache.write(), { code: "permission" });
});

test("what is known of many regions is told at once", async () => {
  const memory = new MemoryNode(2 ** 40);
  await memory.write(2 ** 39, Buffer.from("some data here"));
  const cache = new ExtentCache(memory);
  await listed(cache, 0, memory.length);
  const found = await cache.extents(MIB, memory.length - MIB);
  assert.deepEqual(
    found.map(({ kind, offset, length }) => [kind, offset, length]),
    [
      ["zero", MIB, 2 ** 39 - MIB],
      ["data", 2 ** 39, 65536],
      ["zero", 2 ** 39 + 65536, 2 ** 39 - 65536],
    ],
  );
});

test("what is recalled of a region is not followed by what is known of the next one", async () => {
  const { faults } = await source();
  const cache = new ExtentCache(faults, { remembered: [[0, MIB]] });
  await cache.extents(REGION, 1);
  faults.add({ does: "source-lost" });
  assert.deepEqual(await cache.extents(0, 2 * REGION), [{ offset: 0, length: MIB, kind: "zero", depth: 0 }]);
});
