import assert from "node:assert/strict";
import { test } from "node:test";
import { AdaptiveWindow, LARGEST_WINDOW, SMALLEST_WINDOW } from "./window.ts";

const MIB = 2 ** 20;

/** A source that takes requests of 1 MiB one after the other, and the way to it. */
interface Link {
  /** Milliseconds there and back. */
  readonly delay: number;
  /** Bytes a millisecond. */
  readonly rate: (now: number) => number;
}

/** What a window becomes that is kept full for some time; and the sizes seen, with when they were first seen. */
function run({ delay, rate }: Link, ms: number): { window: AdaptiveWindow; sizes: Map<number, number> } {
  const window = new AdaptiveWindow(0);
  const sizes = new Map<number, number>();
  const underWay: { began: number; ends: number }[] = [];
  let free = 0;
  let now = 0;
  while (now < ms) {
    while ((underWay.length + 1) * MIB <= window.size) {
      free = Math.max(free, now + delay) + MIB / rate(now);
      underWay.push({ began: now, ends: free });
    }
    const { began, ends } = underWay.shift()!;
    now = ends;
    window.arrived(MIB, now, now - began);
    if (!sizes.has(window.size)) sizes.set(window.size, now);
  }
  return { window, sizes };
}

test("grows at once to what a distance asks for", () => {
  const { sizes } = run({ delay: 20, rate: () => 8 * MIB }, 2000);
  assert.ok((sizes.get(LARGEST_WINDOW) ?? Number.POSITIVE_INFINITY) < 300, "it took too long");
  assert.equal(Math.max(...sizes.keys()), LARGEST_WINDOW);
});

test("grows to the largest while throughput grows with it", () => {
  const { sizes } = run({ delay: 400, rate: () => 8 * MIB }, 20_000);
  assert.equal(Math.max(...sizes.keys()), LARGEST_WINDOW);
});

test("falls to the smallest when a smaller one does as well", () => {
  const { window, sizes } = run({ delay: 0.1, rate: () => MIB }, 60_000);
  assert.ok(Math.max(...sizes.keys()) <= 2 * SMALLEST_WINDOW, `${[...sizes]}`);
  assert.ok(window.size <= 2 * SMALLEST_WINDOW);
});

test("puts little in front of others on a slow link", () => {
  const { sizes, window } = run({ delay: 5, rate: () => MIB / 100 }, 600_000);
  assert.ok(Math.max(...sizes.keys()) <= 4 * MIB, `${[...sizes]}`);
  assert.ok(window.size <= 2 * MIB, `${window.size}`);
});

test("does not grow by chance", () => {
  const rate = (now: number): number => MIB * (0.7 + 0.06 * ((Math.floor(now / 100) * 7) % 11));
  const { sizes } = run({ delay: 0.1, rate }, 60_000);
  assert.ok(Math.max(...sizes.keys()) <= 2 * SMALLEST_WINDOW, `${[...sizes]}`);
});

test("finds the size that is just enough", () => {
  const enough = 16 * MIB;
  const { sizes, window } = run({ delay: 20, rate: () => enough / 20 }, 60_000);
  assert.ok(sizes.has(enough));
  assert.ok(window.size >= enough / 2 && window.size <= 2 * enough, `${window.size}`);
});

test("a fixed one stays", () => {
  const window = new AdaptiveWindow(0, 12345);
  for (let now = 1; now < 5000; now++) window.arrived(MIB, now, 1);
  assert.equal(window.size, 12345);
});
