import assert from "node:assert/strict";
import { test } from "node:test";
import type { Live } from "../../src/client/index.ts";
import { CellModel } from "./cell-model.ts";

const NOTHING: Live = {
  ...{ fetched: [], read: [], written: [], zeroed: [], inFlight: [], waiting: [], inexact: false },
  source: { state: "ok", held: 0 },
  clients: 0,
};

/** Four cells of 1000 bytes, the last of 500: one local, two missing, one zero. */
function made(): CellModel {
  const local = Uint8Array.of(255, 0, 0, 0);
  const missing = Uint8Array.of(0, 255, 255, 0);
  return new CellModel({ offset: 10_000, cellLength: 1000, local, missing, complete: true }, 13_500);
}

test("what arrives is local and missing no more, in whatever cells it lies", () => {
  const model = made();
  assert.deepEqual(model.total(), { local: 1000, missing: 2000, zero: 500 });
  model.apply({ ...NOTHING, fetched: [9_000, 2_500, 12_900, 600] });
  assert.deepEqual([...model.local], [1000, 500, 100, 0]);
  assert.deepEqual([...model.missing], [0, 500, 900, 0]);
  model.apply({ ...NOTHING, read: [11_000, 1_000], written: [13_000, 500] });
  assert.deepEqual([...model.local], [1000, 1000, 100, 500]);
  assert.deepEqual([...model.written], [0, 0, 0, 1]);
  assert.deepEqual(model.total(), { local: 2600, missing: 900, zero: 0 });
  assert.equal(model.stale, false);
});

test("what is on its way and what is waited for is as the last message says", () => {
  const model = made();
  model.apply({ ...NOTHING, inFlight: [11_500, 1_000], waiting: [13_400, 9_000] });
  assert.deepEqual([...model.inFlight, ...model.waiting], [0, 1, 1, 0, 0, 0, 0, 1]);
  model.apply(NOTHING);
  assert.deepEqual([...model.inFlight, ...model.waiting], [0, 0, 0, 0, 0, 0, 0, 0]);
});

test("what cannot be known from ranges makes it stale", () => {
  for (const live of [{ inexact: true }, { zeroed: [10_000, 1] }]) {
    const model = made();
    model.apply({ ...NOTHING, ...live });
    assert.equal(model.stale, true);
  }
});

test("a place is in a cell, or is not shown", () => {
  const model = made();
  assert.deepEqual(
    [9_999, 10_000, 12_999, 13_499, 14_000].map((place) => model.indexOf(place)),
    [undefined, 0, 2, 3, undefined],
  );
  assert.deepEqual([model.lengthOf(3), model.startOf(3), model.end], [500, 13_000, 13_500]);
});
