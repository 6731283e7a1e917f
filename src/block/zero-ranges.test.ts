import assert from "node:assert/strict";
import { test } from "node:test";
import { tidyZeroes, zeroUntil } from "./zero-ranges.ts";

test("ranges are sorted, joined where they touch, and the smallest left out", () => {
  const ranges = [
    [30, 5],
    [0, 10],
    [10, 2],
    [20, 1],
  ] as const;
  assert.deepEqual(tidyZeroes(ranges, 3), [
    [0, 12],
    [20, 1],
    [30, 5],
  ]);
  assert.deepEqual(tidyZeroes(ranges, 2), [
    [0, 12],
    [30, 5],
  ]);
  assert.deepEqual(
    tidyZeroes(
      [
        [0, 10],
        [4, 2],
      ],
      5,
    ),
    [[0, 10]],
  );
});

test("zero reaches as far as its range, and nowhere outside", () => {
  const ranges = [
    [10, 10],
    [30, 5],
  ] as const;
  assert.deepEqual(
    [0, 9, 10, 19, 20, 30, 34, 35].map((offset) => zeroUntil(ranges, offset)),
    [0, 9, 20, 20, 20, 35, 35, 35],
  );
  assert.equal(zeroUntil([], 7), 7);
});
