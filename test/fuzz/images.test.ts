/** Damaged images of every kind in the corpus: typed errors only, bounded memory and time. `npm run fuzz` runs as many as one likes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pick, seed } from "../support/seed.ts";
import { reproduction, watchCases } from "./watch.ts";

for (const format of ["qcow2", "qed"]) {
  test(`${format}: a damaged image is refused by name, or read, and never worse (seed ${seed})`, async (t) => {
    const count = pick(400, 20_000);
    const { outcomes, failure } = await watchCases({ seed, first: 0, count, format });
    assert.equal(failure, undefined, failure && `${failure.message}\n${reproduction(seed, failure.index, format)}`);
    const { refused, read, written, sound } = outcomes;
    assert.equal(refused + read + written + sound, count);
    assert.ok(refused > 0 && read + written + sound > 0, JSON.stringify(outcomes));
    t.diagnostic(`cells ${count}`);
  });
}
