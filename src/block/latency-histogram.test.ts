import assert from "node:assert/strict";
import { test } from "node:test";
import { LatencyHistogram } from "./latency-histogram.ts";

test("an answer is never too low, and at most a sixteenth and a microsecond too high", () => {
  for (let us = 1; us < 2 ** 32; us = Math.ceil(us * 1.013)) {
    const times = new LatencyHistogram();
    times.record(us / 1000);
    const found = (times.percentile(1) ?? 0) * 1000;
    assert.ok(found >= us - 1e-6 && found <= us * (1 + 1 / 16) + 1.001, `${us} us were taken for ${found}`);
  }
});

test("percentiles are those of what was recorded", () => {
  const times = new LatencyHistogram();
  for (let ms = 1; ms <= 1000; ms++) times.record(ms);
  for (const part of [0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
    const found = times.percentile(part) ?? 0;
    assert.ok(found >= part * 1000 && found <= part * 1000 * (1 + 1 / 16) + 0.002, `${part}: ${found}`);
  }
  assert.equal(times.count, 1000);
});

test("one that is empty has no answer, and what makes no sense does no harm", () => {
  const times = new LatencyHistogram();
  assert.equal(times.percentile(0.5), undefined);
  times.record(-1);
  times.record(0);
  assert.equal(times.percentile(1), 0);
  times.record(1e12);
  assert.ok((times.percentile(1) ?? 0) > 70 * 60 * 1000);
  assert.equal(times.count, 3);
});

test("what was counted in several places is added up", () => {
  const [one, other] = [new LatencyHistogram(), new LatencyHistogram()];
  for (let i = 0; i < 99; i++) one.record(1);
  other.record(100);
  const sent = structuredClone(one.counts);
  one.record(1);
  const both = new LatencyHistogram(sent);
  both.add(other.counts);
  assert.equal(both.count, 100);
  assert.ok((both.percentile(0.99) ?? 0) < 2);
  assert.ok((both.percentile(1) ?? 0) >= 100);
});

test("several at once are several, and what was counted earlier can be taken away", () => {
  const times = new LatencyHistogram();
  times.record(100, 3);
  const { counts: earlier } = times;
  times.record(1, 97);
  assert.deepEqual([times.count, times.percentile(0.97)], [100, times.percentile(0.01)]);
  times.subtract(earlier);
  assert.equal(times.count, 97);
  assert.ok((times.percentile(1) ?? 0) < 2);
});
