import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seed } from "../../../test/support/seed.ts";
import { Coverage } from "./coverage.ts";

test("knows what has come, as a set of bytes would", () => {
  const piece = fc.record({ start: fc.nat(40), length: fc.integer({ min: 1, max: 8 }) });
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
      const coverage = new Coverage();
      const come = new Set<number>();
      for (const { start, length } of pieces) {
        const bytes = Array.from({ length }, (_, index) => start + index);
        const overlaps = bytes.some((byte) => come.has(byte));
        assert.equal(coverage.overlaps(start, start + length), overlaps);
        if (overlaps) continue;
        assert.ok(coverage.add(start, start + length));
        for (const byte of bytes) come.add(byte);
        assert.equal(coverage.bytes, come.size);
      }
    }),
    { seed },
  );
});

test("has a bound", () => {
  const coverage = new Coverage();
  let pieces = 0;
  while (coverage.add(2 * pieces + 1, 2 * pieces + 2)) pieces++;
  assert.equal(pieces, 4096);
});
