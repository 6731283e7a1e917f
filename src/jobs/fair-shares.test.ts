import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { fairShares, type Taker } from "./fair-shares.ts";

const NO_LIMIT = Number.POSITIVE_INFINITY;

function taker(parts: Partial<Taker> = {}): Taker {
  return { want: NO_LIMIT, speed: NO_LIMIT, limits: ["all"], ...parts };
}

function shares(limits: Readonly<Record<string, number>>, ...takers: Taker[]): number[] {
  return fairShares(takers, new Map(Object.entries(limits)));
}

test("streams that can use all get equal parts", () => {
  assert.deepEqual(shares({ all: 90 }, taker(), taker(), taker()), [30, 30, 30]);
  assert.deepEqual(shares({ all: 90 }, taker()), [90]);
  assert.deepEqual(shares({ all: 90 }), []);
});

test("who needs less leaves the rest to the others", () => {
  assert.deepEqual(shares({ all: 90 }, taker({ want: 10 }), taker(), taker()), [10, 40, 40]);
  assert.deepEqual(shares({ all: 90 }, taker({ speed: 10 }), taker(), taker()), [10, 40, 40]);
});

test("what nobody is known to need is there for all, as far as their own limits go", () => {
  assert.deepEqual(shares({ all: 90 }, taker({ want: 10 }), taker({ want: 20, speed: 25 })), [65, 25]);
});

test("a stream is under the limit of all and that of its source", () => {
  const far = taker({ limits: ["all", "far"] });
  assert.deepEqual(shares({ all: 100, far: 20 }, far, far, taker()), [10, 10, 80]);
  assert.deepEqual(shares({ all: 30, far: 50 }, far, far, taker()), [10, 10, 10]);
});

test("without a limit a stream has its own, or none", () => {
  assert.deepEqual(shares({}, taker({ speed: 7 }), taker()), [7, NO_LIMIT]);
  assert.deepEqual(shares({ far: 20 }, taker({ limits: ["far"] }), taker()), [20, NO_LIMIT]);
});

const NAMES = ["all", "a", "b", "c"] as const;
const rates = fc.oneof(fc.constant(NO_LIMIT), fc.double({ min: 1, max: 1e9, noNaN: true }));
const takers = fc.array(fc.record({ want: rates, speed: rates, limits: fc.subarray([...NAMES]) }), { maxLength: 20 });
const limitsOf = fc.dictionary(fc.constantFrom(...NAMES), fc.double({ min: 1, max: 1e9, noNaN: true }));

test("whatever there is: limits are kept, and nobody could have more at the cost of one who has more", () => {
  fc.assert(
    fc.property(takers, limitsOf, (all, record) => {
      const limits = new Map(Object.entries(record));
      const found = fairShares(all, limits);
      const share = (at: number): number => found[at] ?? Number.NaN;
      const sums = new Map<string, number>();
      all.forEach(({ limits: names }, at) => {
        for (const name of names) sums.set(name, (sums.get(name) ?? 0) + share(at));
      });
      for (const [name, limit] of limits) assert.ok((sums.get(name) ?? 0) <= limit * (1 + 1e-9), name);
      all.forEach(({ want, speed, limits: names }, at) => {
        assert.ok(share(at) > 0 && share(at) <= speed);
        if (share(at) >= Math.min(want, speed) * (1 - 1e-9)) return;
        // It could use more: a limit that it is under is used up, and nobody under it has more without needing it less.
        const full = names.filter((name) => (sums.get(name) ?? 0) >= (limits.get(name) ?? NO_LIMIT) * (1 - 1e-9));
        const fair = full.some((name) =>
          all.every((other, i) => !other.limits.includes(name) || share(i) <= share(at) * (1 + 1e-9)),
        );
        assert.ok(fair, `the one at ${at} has ${share(at)} of ${want}`);
      });
    }),
  );
});
