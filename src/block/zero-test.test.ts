import assert from "node:assert/strict";
import { test } from "node:test";
import { isZero } from "./zero-test.ts";

test("zeroes of any length are zero", () => {
  for (const length of [0, 1, 15, 16, 17, 31, 32, 33, 4096, 65_537])
    assert.ok(isZero(new Uint8Array(length)), String(length));
});

test("one byte anywhere is seen", () => {
  for (const length of [1, 2, 16, 17, 18, 100]) {
    for (let at = 0; at < length; at++) {
      const buffer = new Uint8Array(length);
      buffer[at] = 1;
      assert.equal(isZero(buffer), false, `byte ${at} of ${length}`);
    }
  }
});

test("a constant that is not zero is not zero", () => {
  assert.equal(isZero(new Uint8Array(4096).fill(0xff)), false);
});

test("only the range counts", () => {
  const buffer = new Uint8Array(200).fill(7);
  buffer.fill(0, 50, 150);
  assert.ok(isZero(buffer, 50, 150));
  assert.ok(isZero(buffer, 60, 60));
  assert.equal(isZero(buffer, 49, 150), false);
  assert.equal(isZero(buffer, 50, 151), false);
  assert.equal(isZero(buffer, 50), false);
});

test("views into a larger buffer are taken as such", () => {
  const whole = new Uint8Array(300).fill(9);
  whole.fill(0, 101, 201);
  assert.ok(isZero(whole.subarray(101, 201)));
  assert.equal(isZero(whole.subarray(100, 201)), false);
});
