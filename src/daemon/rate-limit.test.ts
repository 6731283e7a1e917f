import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { RateLimit } from "./rate-limit.ts";

test("a burst, then a steady rate, and a pause gives the burst back", async () => {
  const clock = new ManualClock();
  const limit = new RateLimit({ perSecond: 10, burst: 5 }, clock);
  const burst = () => Array.from({ length: 6 }, () => limit.take("a"));
  assert.deepEqual(burst(), [0, 0, 0, 0, 0, 100]);
  await clock.advance(100);
  assert.equal(limit.take("a"), 0);
  assert.equal(limit.take("a"), 100);
  await clock.advance(60_000);
  assert.deepEqual(burst(), [0, 0, 0, 0, 0, 100]);
});

test("who floods from many addresses takes no memory, and whoever calls all the time is not forgotten", () => {
  const limit = new RateLimit({ perSecond: 1, burst: 1 }, new ManualClock());
  assert.equal(limit.take("busy"), 0);
  for (let i = 0; i < 10_000; i++) {
    limit.take(`other ${i}`);
    if (i % 1000 === 0) assert.ok(limit.take("busy") > 0);
  }
  assert.equal(limit.take("other 0"), 0);
  assert.ok(limit.take("other 9999") > 0);
});
