import assert from "node:assert/strict";
import { test } from "node:test";
import { below } from "../../test/support/draw.ts";
import { rng } from "../../test/support/seed.ts";
import { RangeList } from "./range-list.ts";

test("ranges are in order and joined where they touch", () => {
  const list = new RangeList();
  for (const [offset, length] of [
    [100, 10],
    [0, 10],
    [10, 5],
    [95, 5],
    [40, 0],
    [102, 3],
  ] as const) {
    list.add(offset, length);
  }
  assert.equal(list.widened, false);
  assert.deepEqual(list.take(), [0, 15, 95, 15]);
  assert.ok(list.isEmpty);
  list.add(7, 1);
  assert.deepEqual(list.take(), [7, 1]);
});

test("there are never many, and every one that was added is covered", () => {
  const random = rng("ranges");
  const list = new RangeList();
  const added = Array.from({ length: 5000 }, () => ({ offset: below(random, 2 ** 30) * 4096, length: 4096 }));
  for (const { offset, length } of added) list.add(offset, length);
  assert.ok(list.widened);
  const ranges = list.take();
  assert.ok(ranges.length <= 512, `${ranges.length / 2}`);
  for (const { offset, length } of added) {
    const covered = ranges.some(
      (start, index) => index % 2 === 0 && start <= offset && offset + length <= start + (ranges[index + 1] as number),
    );
    assert.ok(covered, `${offset}`);
  }
  assert.equal(list.widened, false);
});
