import assert from "node:assert/strict";
import { test } from "node:test";
import { wholeGrains } from "./grain.ts";
import type { StreamExtent, StreamExtentKind } from "./target.ts";

type Run = [length: number, kind: StreamExtentKind];

async function round(grain: number, start: number, ...runs: Run[]): Promise<[number, number, StreamExtentKind][]> {
  const extents: StreamExtent[] = [];
  let offset = start;
  for (const [length, kind] of runs) {
    extents.push({ offset, length, kind });
    offset += length;
  }
  async function* walk(): AsyncGenerator<StreamExtent> {
    yield* extents;
  }
  const found: [number, number, StreamExtentKind][] = [];
  for await (const extent of wholeGrains(walk(), grain, offset)) {
    found.push([extent.offset, extent.length, extent.kind]);
  }
  return found;
}

test("what is aligned stays, and equal neighbours become one", async () => {
  assert.deepEqual(await round(8, 16, [8, "fetch"], [16, "fetch"], [8, "zero"]), [
    [16, 24, "fetch"],
    [40, 8, "zero"],
  ]);
});

test("a grain of several kinds is fetched whole", async () => {
  assert.deepEqual(await round(8, 0, [3, "zero"], [2, "clear"], [3, "zero"], [8, "zero"]), [
    [0, 8, "fetch"],
    [8, 8, "zero"],
  ]);
  assert.deepEqual(await round(8, 0, [12, "base"], [12, "clear"], [8, "base"]), [
    [0, 8, "base"],
    [8, 8, "fetch"],
    [16, 8, "clear"],
    [24, 8, "base"],
  ]);
});

test("a grain of one kind in several pieces stays of that kind", async () => {
  assert.deepEqual(await round(8, 0, [3, "zero"], [5, "zero"], [8, "fetch"]), [
    [0, 8, "zero"],
    [8, 8, "fetch"],
  ]);
});

test("the last grain may be cut short", async () => {
  assert.deepEqual(await round(8, 0, [8, "zero"], [2, "zero"], [1, "fetch"]), [
    [0, 8, "zero"],
    [8, 3, "fetch"],
  ]);
  assert.deepEqual(await round(8, 8, [3, "zero"]), [[8, 3, "zero"]]);
});
