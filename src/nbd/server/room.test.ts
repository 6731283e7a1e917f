import assert from "node:assert/strict";
import { test } from "node:test";
import { PIECE } from "./request.ts";
import { Room, SharedRoom } from "./room.ts";

test("a connection has its own share, borrows beyond it, and gives back", () => {
  const shared = new SharedRoom(4 * PIECE);
  const woken: string[] = [];
  const a = new Room(shared, () => woken.push("a"));
  const b = new Room(shared, () => woken.push("b"));
  assert.ok(a.take(PIECE) && a.take(5 * PIECE), "its own two, and four in common");
  assert.equal(a.take(1), false);
  assert.ok(b.take(2 * PIECE), "the other has its own");
  assert.equal(b.take(PIECE), false);
  woken.length = 0;
  a.give(PIECE);
  assert.deepEqual(woken.sort(), ["a", "a", "b"], "both had been told no");
  assert.ok(b.take(PIECE));
  a.give(5 * PIECE);
  b.give(3 * PIECE);
  assert.ok(b.take(6 * PIECE), "all that is in common is back");
});

test("one connection never has everything", () => {
  const room = new Room(new SharedRoom(2 ** 40), () => {});
  assert.ok(room.take(64 * PIECE));
  assert.equal(room.take(1), false);
});

test("who is gone is not woken", () => {
  const shared = new SharedRoom(PIECE);
  let woken = 0;
  const a = new Room(shared, () => woken++);
  const b = new Room(shared, () => {});
  assert.ok(b.take(3 * PIECE));
  assert.equal(a.take(3 * PIECE), false);
  a.leave();
  b.give(3 * PIECE);
  assert.equal(woken, 0);
});
