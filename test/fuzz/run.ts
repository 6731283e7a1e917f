/** `npm run fuzz -- [--cases N] [--seed N] [--first N] [--format qcow2|qed]`: as many cases as one likes, until the first failure. */
import { parseArgs } from "node:util";
import { seed as seedOfCommit } from "../support/seed.ts";
import { reproduction, watchCases } from "./watch.ts";

/** So many cases share a thread: a new one now and then gives all memory back. */
const BATCH = 20_000;

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "100000" },
    seed: { type: "string", default: String(seedOfCommit) },
    first: { type: "string", default: "0" },
    format: { type: "string" },
  },
});

function number(name: "cases" | "seed" | "first"): number {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value >= 0 && value < 2 ** 32) return value;
  console.error(`--${name} must be a whole number below 2^32, not '${values[name]}'`);
  process.exit(64);
}

const seed = number("seed");
const first = number("first");
const end = first + number("cases");
const total = { refused: 0, read: 0, written: 0, sound: 0 };
console.log(`Seed ${seed}, cases ${first} to ${end - 1}`);
for (let at = first; at < end; at += BATCH) {
  const started = Date.now();
  const count = Math.min(BATCH, end - at);
  const { outcomes, failure } = await watchCases({ seed, first: at, count, format: values.format });
  for (const key of ["refused", "read", "written", "sound"] as const) total[key] += outcomes[key];
  if (failure !== undefined) {
    console.error(`\nCase ${failure.index} failed: ${failure.message}\n`);
    console.error(`To have it again: ${reproduction(seed, failure.index, values.format)}`);
    process.exit(1);
  }
  const rate = Math.round((count * 1000) / Math.max(1, Date.now() - started));
  console.log(`${at + count - first} cases: ${JSON.stringify(total)}, ${rate} a second`);
}
console.log("No failure");
