import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, duration, forPeople, latency, percent, policyInWords } from "./words.ts";

test("amounts have three digits and a unit", () => {
  const cases: readonly (readonly [number, string])[] = [
    [0, "0 bytes"],
    [1, "1 byte"],
    [1023, "1023 bytes"],
    [1024, "1 KiB"],
    [1023.9 * 1024, "1 MiB"],
    [999.4 * 1024, "999 KiB"],
    [1.5 * 2 ** 30, "1.5 GiB"],
    [4 * 2 ** 40, "4 TiB"],
  ];
  for (const [amount, text] of cases) assert.equal(bytes(amount), text);
  assert.equal(
    forPeople("1073741824 bytes are missing, at most 4194304 bytes a second"),
    "1 GiB are missing, at most 4 MiB a second",
  );
});

test("a share is all or nothing only when it is", () => {
  const shares = [0, 1, 500, 999_999, 1_000_000].map((part) => percent(part, 1_000_000));
  assert.deepEqual(shares, ["0 %", "under 0.1 %", "under 0.1 %", "over 99.9 %", "100 %"]);
  assert.equal(percent(1, 3), "33.3 %");
});

test("times", () => {
  assert.deepEqual([0.2, 89, 600, 7200, 1e6].map(duration), ["1 s", "89 s", "10 min", "2 h", "12 days"]);
  assert.deepEqual([12, 1234, 2_500_000].map(latency), ["12 µs", "1.23 ms", "2.5 s"]);
});

test("a policy is said as what becomes of reads", () => {
  const said = [
    [null, "error"],
    [0, "error"],
    [0, "pause"],
    [30_000, "error"],
    [10_000, "pause"],
  ].map(([holdMs, afterwards]) => policyInWords({ holdMs, afterwards } as Parameters<typeof policyInWords>[0], false));
  assert.deepEqual(said, [
    "would wait until the source is back",
    "would fail at once",
    "would fail, and its machine would be paused",
    "would wait for 30 s; then they would fail",
    "would wait for 10 s; then its machine would be paused",
  ]);
  assert.equal(policyInWords({ holdMs: 0, afterwards: "pause" }, true), "fail, and its machine is paused");
});
