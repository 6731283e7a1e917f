/**
 * `npm run test:full`: every cell of every test, two files at a time (`-- --jobs N`: so many), each file a shard of its own.
 *
 * What passed is kept in `node_modules/.cache/streamdisk/test-full.json` for as long as the checkout (commit, changes, new
 * files) and the seed stay the same, so that a run which was interrupted goes on where it was: only the files that were
 * under way are run again. The file is replaced by rename after each shard. The end of a run is the table in `test/RESULTS.md`.
 *
 * `npm run test:full -- --failed` runs what has not passed in the last run, with its seed, at whatever checkout there is now: for
 * when a mistake has been mended. The table names both commits.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { seed } from "../test/support/seed.ts";
import { ensurePeers } from "./peers.ts";
import { RESULTS_PATH, writeResults } from "./test-results.ts";
import { CACHE, ROOT, runTestFiles, type TestRunResult, testFiles } from "./test-run.ts";

const STATE_PATH = join(CACHE, "test-full.json");

interface State {
  /** What was tested: a state of another checkout is void. */
  readonly checkout: string;
  readonly seed: number;
  readonly files: Record<string, TestRunResult>;
}

function git(...args: string[]): string {
  return execFileSync("git", args, { cwd: ROOT, encoding: "utf8", maxBuffer: 2 ** 28 });
}

/** The commit, and a digest of all that is not in it (the results themselves apart). */
function describeCheckout(): { commit: string; changed: boolean; id: string } {
  const others = ["--", ".", `:!${RESULTS_PATH}`];
  const digest = createHash("sha256").update(git("diff", "HEAD", ...others));
  const untracked = git("ls-files", "--others", "--exclude-standard", "-z", ...others)
    .split("\0")
    .filter(Boolean);
  for (const file of untracked) digest.update(`${file}\0`).update(readFileSync(join(ROOT, file)));
  const commit = git("rev-parse", "--short=12", "HEAD").trim();
  const changed = git("status", "--porcelain", ...others) !== "";
  return { commit, changed, id: `${commit} ${digest.digest("hex")}` };
}

/** What the last run has left, whatever its checkout was; undefined when there is nothing, or it was cut short. */
function lastState(): State | undefined {
  try {
    return JSON.parse(readFileSync(STATE_PATH, "utf8")) as State;
  } catch {
    return undefined;
  }
}

function saveState(state: State): void {
  mkdirSync(dirname(STATE_PATH), { recursive: true });
  writeFileSync(`${STATE_PATH}.new`, JSON.stringify(state));
  renameSync(`${STATE_PATH}.new`, STATE_PATH);
}

if (!ensurePeers()) process.exit(1);
const { failed: onlyFailed, jobs } = parseArgs({
  options: { failed: { type: "boolean", default: false }, jobs: { type: "string", default: "2" } },
}).values;
const checkout = describeCheckout();
const last = lastState();
if (onlyFailed && last === undefined) {
  console.error("There was no run whose failures could be run again");
  process.exit(1);
}
const goesOn = last !== undefined && (onlyFailed || (last.checkout === checkout.id && last.seed === seed));
const state: State = goesOn ? last : { checkout: checkout.id, seed, files: {} };
process.env.STREAMDISK_SEED = String(state.seed);
process.env.STREAMDISK_TEST = "full";

const files = testFiles();
const waiting = files.filter((file) => state.files[file]?.passed !== true);
const failed: string[] = [];
const before = state.checkout.slice(0, checkout.commit.length);
const commit = onlyFailed ? `${before}, what had not passed there at ${checkout.commit}` : checkout.commit;
console.log(`Every cell at ${commit}${checkout.changed ? " with changes" : ""}, seed ${state.seed}:`);
console.log(`${files.length} files, of which ${files.length - waiting.length} have passed already\n`);

async function runShards(): Promise<void> {
  for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
    let report = "";
    const result = await runTestFiles([file], {
      concurrency: 1,
      minutesPerFile: 240,
      onOutput: (text) => {
        report += text;
      },
    });
    state.files[file] = result;
    saveState(state);
    const seconds = Math.round(result.durationMs / 1000);
    console.log(`${result.passed ? "✔" : "✖"} ${file}: ${result.cells} cells in ${seconds} s`);
    if (!result.passed) {
      failed.push(file);
      console.log(report);
    }
  }
}
await Promise.all(Array.from({ length: Number(jobs) }, runShards));

const results = files.map((file) => ({ file, ...(state.files[file] as TestRunResult) }));
const total = writeResults(join(ROOT, RESULTS_PATH), {
  ...checkout,
  commit,
  seed: state.seed,
  node: process.versions.node,
  results,
});
for (const file of failed) console.log(`failed: ${file}`);
console.log(`${total.cells - total.failures} passed, ${total.failures} failed`);
process.exitCode = failed.length === 0 ? 0 : 1;
