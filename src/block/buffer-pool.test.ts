import assert from "node:assert/strict";
import { test } from "node:test";
import { BufferPool } from "./buffer-pool.ts";

test("a buffer that was given back is taken again", () => {
  const pool = new BufferPool();
  const first = pool.take(100_000);
  assert.equal(first.length, 131_072);
  pool.give(first);
  assert.equal(pool.take(70_000), first);
  assert.notEqual(pool.take(70_000), first);
});

test("no more is kept than may be", () => {
  const pool = new BufferPool(65536);
  const both = [pool.take(65536), pool.take(65536)];
  for (const buffer of both) pool.give(buffer);
  assert.deepEqual(
    both.map(({ length }) => length),
    [65536, 0],
  );
});

test("what is kept makes room for other sizes", () => {
  const pool = new BufferPool();
  const large = [pool.take(65536), pool.take(65536)];
  for (const buffer of large) pool.give(buffer);
  pool.give(pool.take(4096));
  assert.deepEqual(
    large.map(({ length }) => length),
    [65536, 0],
  );
});
