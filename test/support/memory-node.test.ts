import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "./memory-node.ts";

const MIB = 2 ** 20;
const TIB = 2 ** 40;

test("a node of 8 TiB costs what was written to it", async () => {
  await using node = new MemoryNode(8 * TIB, { grows: false });
  await node.write(5 * TIB - 1, Uint8Array.of(1, 2, 3));
  const seen = new Uint8Array(5);
  await node.read(5 * TIB - 2, seen);
  assert.deepEqual([...seen], [0, 1, 2, 3, 0]);
  assert.equal(node.allocated, 128 * 1024);
  assert.deepEqual(await node.extents(0, node.length), [
    { offset: 0, length: 5 * TIB - 65536, kind: "zero", depth: 0 },
    { offset: 5 * TIB - 65536, length: 131072, kind: "data", depth: 0 },
    { offset: 5 * TIB + 65536, length: 3 * TIB - 65536, kind: "zero", depth: 0 },
  ]);
  await node.writeZeroes(MIB, 7 * TIB);
  assert.equal(node.allocated, 0);
  await assert.rejects(node.write(8 * TIB - 1, seen), { code: "invalid-argument" });
});

test("it grows, shrinks and forgets what was cut off", async () => {
  await using node = MemoryNode.of(Uint8Array.of(1, 2, 3, 4));
  await node.write(6, Uint8Array.of(7));
  assert.equal(node.length, 7);
  await node.resize(2);
  await node.resize(8);
  const seen = new Uint8Array(8).fill(9);
  await node.read(0, seen);
  assert.deepEqual([...seen], [1, 2, 0, 0, 0, 0, 0, 0]);
  await node.close();
  await assert.rejects(node.flush(), { code: "shutdown" });
});
