/** A few thousand fuzz cases, others for every commit; `npm run fuzz` does as many as one likes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pick, seed } from "../support/seed.ts";
import { loadCorpus } from "./corpus.ts";
import { fieldsOf } from "./fields.ts";
import { reproduction, watchCases } from "./watch.ts";

test("every image of the corpus has its fields inside", () => {
  for (const image of loadCorpus()) {
    const { groups, places } = fieldsOf(image);
    assert.ok(groups.length >= 3, image.name);
    for (const { at, bytes } of groups.flat()) assert.ok(at >= 0 && at + bytes <= image.bytes.length, image.name);
    for (const place of places) assert.ok(place < image.bytes.length, image.name);
  }
});

test(`damaged images: typed errors, bounded work, nothing destroyed (seed ${seed})`, async (t) => {
  const count = pick(2000, 100_000);
  const { outcomes, failure } = await watchCases({ seed, first: 0, count });
  t.diagnostic(`cells ${count}`);
  t.diagnostic(JSON.stringify(outcomes));
  const again = failure === undefined ? "" : reproduction(seed, failure.index, undefined);
  assert.equal(failure, undefined, `${failure?.message}\nTo have it again: ${again}`);
  // A fuzzer whose images nobody opens would test nothing.
  assert.ok(outcomes.sound > count / 10 && outcomes.written > count / 10 && outcomes.refused > count / 10);
});
