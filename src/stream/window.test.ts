import assert from "node:assert/strict";
import { test } from "node:test";
import { AdaptiveWindow, LARGEST_WINDOW, SMALLEST_WINDOW } from "./window.ts";

/** Feeds a window with what a link of a rate that depends on the window would bring; returns the sizes seen. */
function run(
  rateOf: (window: number, now: number) => number,
  ms: number,
): { window: AdaptiveWindow; sizes: Set<number> } {
  const window = new AdaptiveWindow(0);
  const sizes = new Set<number>();
  for (let now = 1; now < ms; now++) {
    window.arrived(rateOf(window.size, now), now);
    sizes.add(window.size);
  }
  return { window, sizes };
}

test("grows to the largest while throughput grows with it", () => {
  const { sizes } = run((window) => window / 20, 2000);
  assert.ok(sizes.has(LARGEST_WINDOW));
  assert.equal(Math.max(...sizes), LARGEST_WINDOW);
});

test("falls to the smallest when a smaller one does as well", () => {
  const { window, sizes } = run(() => 2 ** 20, 60_000);
  assert.equal(Math.min(...sizes), SMALLEST_WINDOW);
  assert.ok(window.size <= 2 * SMALLEST_WINDOW);
});

test("does not grow by chance", () => {
  const swing = (now: number): number => 0.7 + 0.06 * ((Math.floor(now / 100) * 7) % 11);
  const { sizes } = run((_, now) => 2 ** 20 * swing(now), 60_000);
  assert.ok(Math.max(...sizes) <= 2 * SMALLEST_WINDOW);
});

test("finds the size that is just enough", () => {
  const enough = 16 * 2 ** 20;
  const { sizes, window } = run((size) => Math.min(size, enough) / 20, 60_000);
  assert.ok(sizes.has(enough));
  assert.ok(window.size >= enough / 2 && window.size <= 2 * enough, `${window.size}`);
});

test("a fixed one stays", () => {
  const window = new AdaptiveWindow(0, 12345);
  for (let now = 1; now < 5000; now++) window.arrived(2 ** 20, now);
  assert.equal(window.size, 12345);
});
