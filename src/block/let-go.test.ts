import assert from "node:assert/strict";
import { test } from "node:test";
import { letGo } from "./let-go.ts";

test("a buffer of its own is gone at once", () => {
  const bytes = new Uint8Array(65536);
  letGo(bytes);
  assert.equal(bytes.length, 0);
});

test("small Buffers that share their memory stay", () => {
  const [one, other] = [Buffer.from("one"), Buffer.from("other")];
  assert.ok(one.buffer === other.buffer);
  letGo(one);
  assert.deepEqual([one.toString(), other.toString()], ["one", "other"]);
});
