import assert from "node:assert/strict";
import { test } from "node:test";
import { cellsFor, centred, moved, whole, zoomed } from "./view.ts";

const TIB = 2 ** 40;
const ROOM = 2000;

test("a zoom keeps a place where it is, and ends at a cluster a cell and at the whole disk", () => {
  const at = 3 * TIB;
  const once = zoomed(whole(4 * TIB), 4 * TIB, 0.5, at, ROOM);
  assert.deepEqual(once, { start: 1.5 * TIB, length: 2 * TIB });
  assert.equal((at - once.start) / once.length, at / (4 * TIB));
  let view = once;
  for (let i = 0; i < 60; i++) view = zoomed(view, 4 * TIB, 0.5, at, ROOM);
  assert.equal(view.length, ROOM * 65536);
  assert.ok(view.start <= at && at <= view.start + view.length);
  assert.deepEqual(zoomed(view, 4 * TIB, 1e9, at, ROOM), whole(4 * TIB));
});

test("a view stays inside the disk", () => {
  const view = { start: TIB, length: TIB };
  assert.equal(moved(view, 4 * TIB, 9).start, 3 * TIB);
  assert.equal(moved(view, 4 * TIB, -9).start, 0);
  assert.equal(centred(view, 4 * TIB, 0).start, 0);
  assert.deepEqual(centred(view, 4 * TIB, 2 * TIB), { start: 1.5 * TIB, length: TIB });
  const small = whole(1000);
  assert.deepEqual(zoomed(small, 1000, 0.5, 500, ROOM), small);
});

test("there are no more cells than clusters, than room, than the daemon gives", () => {
  assert.deepEqual(
    [1000, 2 ** 20, TIB].map((disk) => cellsFor(whole(disk), ROOM)),
    [1, 16, ROOM],
  );
  assert.equal(cellsFor(whole(TIB), 9999), 4096);
});
