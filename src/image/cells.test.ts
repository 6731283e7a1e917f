import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { MemoryOverlay } from "../../test/support/memory-overlay.ts";
import type { BlockNode, Extent, ExtentKind } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { nodeCells } from "./cells.ts";

const KIB = 1024;
const GRAIN = 64 * KIB;
const TIB = 2 ** 40;

/** A node of which nothing is known but its extents: of each `every` bytes the first `size` are of one kind, the rest of the other. */
function striped(length: number, every: number, size: number, kinds: readonly [ExtentKind, ExtentKind]) {
  let told = 0;
  const extents = async (offset: number, asked: number): Promise<Extent[]> => {
    const found: Extent[] = [];
    const end = Math.min(offset + asked, length);
    for (let position = offset; position < end && found.length < 4096; ) {
      const within = position % every;
      const border = position - within + (within < size ? size : every);
      const to = Math.min(end, border);
      found.push({ offset: position, length: to - position, kind: within < size ? kinds[0] : kinds[1], depth: 0 });
      position = to;
    }
    told += found.length;
    return found;
  };
  const node = { name: "striped", length, backing: undefined, extents } as unknown as BlockNode;
  return { node, told: () => told };
}

test("cells tell what is local, what is missing, and by what is left what is zero", async () => {
  const base = MemoryNode.of(new Uint8Array(8 * GRAIN).fill(7, 0, 4 * GRAIN));
  await base.discard(4 * GRAIN, 4 * GRAIN);
  const overlay = new MemoryOverlay({ length: 10 * GRAIN, backing: base });
  await overlay.populate(0, new Uint8Array(GRAIN).fill(7));
  await overlay.writeZeroes(GRAIN, GRAIN);
  const { local, missing, ...rest } = await nodeCells(overlay, { offset: 0, count: 10 });
  assert.deepEqual(rest, { offset: 0, cellLength: GRAIN, complete: true });
  assert.deepEqual([...local], [255, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual([...missing], [0, 0, 255, 255, 0, 0, 0, 0, 0, 0]);
  const two = await nodeCells(overlay, { offset: GRAIN, length: 4 * GRAIN, count: 2 });
  assert.deepEqual([two.cellLength, [...two.local], [...two.missing]], [2 * GRAIN, [0, 0], [128, 128]]);
  const fine = await nodeCells(overlay, { offset: 512, length: 1024, count: 4096 });
  assert.deepEqual([fine.cellLength, fine.local.length], [512, 2]);
  const none = await nodeCells(overlay, { offset: overlay.length, count: 16 });
  assert.equal(none.local.length, 0);
});

test("what is there is seen however little it is, and all of a cell is said of all only", async () => {
  const base = new MemoryNode(4 * GRAIN);
  const overlay = new MemoryOverlay({ length: 2 ** 28, backing: base });
  await overlay.write(0, new Uint8Array(GRAIN).fill(1));
  await base.write(GRAIN, new Uint8Array(GRAIN).fill(1));
  const { local, missing } = await nodeCells(overlay, { offset: 0, count: 2 });
  assert.deepEqual([...local, ...missing], [1, 0, 1, 0]);
  const { node } = striped(2 ** 20, 2 ** 20, 2 ** 20 - 512, ["data", "zero"]);
  assert.deepEqual([...(await nodeCells(node, { offset: 0, count: 1 })).local], [254]);
});

test("a disk of 4 TiB that is all in pieces takes bounded work, and is right to the eye", async () => {
  const { node, told } = striped(4 * TIB, 2 * GRAIN, GRAIN, ["data", "zero"]);
  const { local, cellLength } = await nodeCells(node, { offset: 0, count: 4096 });
  assert.equal(cellLength, 2 ** 30);
  for (const share of local) assert.ok(Math.abs(share - 128) <= 8, `${share}`);
  assert.ok(told() < 2 ** 21, `${told()} extents`);
});

test("a sparse disk of 4 TiB is shown as it is", async () => {
  const { node } = striped(4 * TIB, TIB, GRAIN, ["data", "zero"]);
  const { local } = await nodeCells(node, { offset: 0, count: 4096 });
  const there = [...local.entries()].filter(([, share]) => share > 0);
  assert.deepEqual(
    there,
    [0, 1024, 2048, 3072].map((index) => [index, 1]),
  );
});

test("a source that gives no answer counts as missing, and is waited for once", async () => {
  const clock = new ManualClock();
  const base = new MemoryNode(8 * GRAIN);
  const answered = base.extents.bind(base);
  base.extents = (offset) => (offset < GRAIN ? answered(offset, GRAIN - offset) : new Promise<Extent[]>(() => {}));
  const overlay = new MemoryOverlay({ length: 8 * GRAIN, backing: base });
  const looking = nodeCells(overlay, { offset: 0, count: 4 }, { clock, patienceMs: 500 });
  const { missing, complete } = await clock.runUntil(looking);
  assert.deepEqual([[...missing], complete], [[128, 255, 255, 255], false]);
  assert.equal(clock.now(), 500);
});

test("a source that is lost counts as missing, and local data is shown all the same", async () => {
  const base = new MemoryNode(4 * GRAIN);
  base.extents = () => Promise.reject(new StreamdiskError("source-lost", "Gone"));
  const overlay = new MemoryOverlay({ length: 4 * GRAIN, backing: base });
  await overlay.write(2 * GRAIN, new Uint8Array(GRAIN).fill(1));
  const { local, missing, complete } = await nodeCells(overlay, { offset: 0, count: 4 });
  assert.deepEqual([[...local], [...missing], complete], [[0, 0, 255, 0], [255, 255, 0, 255], false]);
});
