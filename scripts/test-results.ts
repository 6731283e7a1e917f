/** `test/RESULTS.md`: one line for each complete run of every cell, newest first, and the files of the newest run. */
import { readFileSync, writeFileSync } from "node:fs";
import type { TestRunResult } from "./test-run.ts";

export const RESULTS_PATH = "test/RESULTS.md";

export interface FullRun {
  readonly commit: string;
  /** Whether the checkout had changes that are not in the commit. */
  readonly changed: boolean;
  readonly seed: number;
  /** Version of Node.js. */
  readonly node: string;
  readonly results: readonly ({ readonly file: string } & TestRunResult)[];
}

const RUNS_HEAD =
  "| date | commit | cells | failures | duration | seed | Node.js |\n| --- | --- | ---: | ---: | ---: | ---: | --- |";
const FILES_HEAD = "| file | cells | failures | seconds |\n| --- | ---: | ---: | ---: |";

/** Puts a run on top of the table. Returns its totals. */
export function writeResults(path: string, run: FullRun): { cells: number; failures: number } {
  const sum = (field: "cells" | "failures" | "durationMs") =>
    run.results.reduce((total, result) => total + result[field], 0);
  const cells = sum("cells");
  const failures = sum("failures");
  const commit = run.changed ? `${run.commit} with changes` : run.commit;
  const date = new Date().toISOString().slice(0, 10);
  const duration = `${(sum("durationMs") / 60_000).toFixed(1)} min`;
  const newest = `| ${date} | ${commit} | ${cells} | ${failures} | ${duration} | ${run.seed} | ${run.node} |`;
  const rows = run.results.map(
    ({ file, cells, failures, durationMs }) =>
      `| ${file} | ${cells} | ${failures} | ${(durationMs / 1000).toFixed(1)} |`,
  );
  writeFileSync(
    path,
    `# Results of every cell

Written by \`npm run test:full\`, newest first. A cell is one combination of a test's axes; the duration is that of all files
together, of which some run at a time. A commit "with changes" was run before they were committed.

${RUNS_HEAD}
${[newest, ...earlierRuns(path)].join("\n")}

## The newest run by file

${FILES_HEAD}
${rows.join("\n")}
`,
  );
  return { cells, failures };
}

function earlierRuns(path: string): string[] {
  try {
    return readFileSync(path, "utf8")
      .split("\n")
      .filter((line) => /^\| \d{4}-\d\d-\d\d /.test(line));
  } catch {
    return [];
  }
}
