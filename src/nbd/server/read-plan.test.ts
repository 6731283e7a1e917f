import assert from "node:assert/strict";
import { test } from "node:test";
import type { Extent, ExtentKind } from "../../block/index.ts";
import { readPlan } from "./read-plan.ts";

const KIB = 1024;

function extents(offset: number, ...runs: readonly (readonly [ExtentKind, number])[]): Extent[] {
  let position = offset;
  return runs.map(([kind, length]) => {
    const extent = { offset: position, length, kind, depth: 0 };
    position += length;
    return extent;
  });
}

const plan = (offset: number, length: number, known: readonly Extent[]): string =>
  readPlan(offset, length, known)
    .map((run) => `${run.hole ? "hole" : "data"} ${run.offset} ${run.length}`)
    .join(", ");

test("what is known to be zero is a hole, all else is data", () => {
  assert.equal(plan(0, 100, []), "data 0 100");
  assert.equal(plan(512, 8192, extents(512, ["zero", 8192])), "hole 512 8192");
  assert.equal(
    plan(0, 64 * KIB, extents(0, ["data", 8 * KIB], ["zero", 16 * KIB], ["missing", 8 * KIB], ["data", 32 * KIB])),
    `data 0 ${8 * KIB}, hole ${8 * KIB} ${16 * KIB}, data ${24 * KIB} ${40 * KIB}`,
  );
});

test("what the extents leave out is data, and what they have too much is cut", () => {
  assert.equal(plan(0, 64 * KIB, extents(0, ["zero", 8 * KIB])), `hole 0 ${8 * KIB}, data ${8 * KIB} ${56 * KIB}`);
  assert.equal(plan(KIB, 8 * KIB, extents(KIB, ["zero", 2 ** 40])), `hole ${KIB} ${8 * KIB}`);
});

test("a few zeroes are not worth a chunk, unless they go on", () => {
  assert.equal(plan(0, 16 * KIB, extents(0, ["data", 4 * KIB], ["zero", 2 * KIB], ["data", 10 * KIB])), "data 0 16384");
  assert.equal(plan(0, 16 * KIB, extents(0, ["zero", 15 * KIB], ["zero", KIB])), "hole 0 16384");
});
