/**
 * One run of node's test runner over some files, with the project's own conditions on top: a test that is skipped or left
 * to do makes the run fail, and so does a run without tests.
 *
 * A *cell* is one combination of a test's axes. A test is one cell, unless it says `t.diagnostic("cells N")`.
 */
import { globSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { run } from "node:test";
import { spec, type TestEvent } from "node:test/reporters";
import { pathToFileURL } from "node:url";

export const ROOT: string = join(import.meta.dirname, "..");

/** Where the scripts keep what can be made again. */
export const CACHE: string = join(ROOT, "node_modules/.cache/streamdisk");

const CELLS = /^cells (\d+)$/;

export interface TestRunOptions {
  /** How many files run at the same time. */
  readonly concurrency: number;
  /** How long one file may take before it counts as hung. */
  readonly minutesPerFile: number;
  /** Called with each piece of the report, which ends with node's summary. */
  readonly onOutput: (text: string) => void;
}

export interface TestRunResult {
  readonly passed: boolean;
  readonly cells: number;
  readonly failures: number;
  readonly durationMs: number;
}

/** All test files, relative to the checkout, in a fixed order. */
export function testFiles(): string[] {
  return globSync(["src/**/*.test.ts", "web/**/*.test.ts", "test/**/*.test.ts"], { cwd: ROOT }).sort();
}

export async function runTestFiles(files: readonly string[], options: TestRunOptions): Promise<TestRunResult> {
  const notRun: string[] = [];
  let extraCells = 0;
  let result: TestRunResult = { passed: false, cells: 0, failures: 0, durationMs: 0 };

  async function* judge(events: AsyncIterable<TestEvent>): AsyncGenerator<TestEvent, void, undefined> {
    for await (const event of events) {
      const { type, data } = event;
      if (type === "test:diagnostic") {
        extraCells += Number(CELLS.exec(data.message)?.[1] ?? 1) - 1;
      } else if (type === "test:pass" && (data.skip !== undefined || data.todo !== undefined)) {
        notRun.push(`${data.name} (${data.file})`);
      } else if (type === "test:plan" && data.file === undefined && notRun.length > 0) {
        const message = `FAILED: skipped or left to do, which this project does not allow: ${notRun.join("; ")}`;
        yield { type: "test:diagnostic", data: { message, nesting: 0, level: "error" } };
      } else if (type === "test:summary" && data.file === undefined) {
        const { tests, passed } = data.counts;
        result = {
          passed: data.success && tests > 0 && notRun.length === 0,
          cells: tests + extraCells,
          failures: tests - passed,
          durationMs: data.duration_ms,
        };
      }
      yield event;
    }
  }

  // The tests start hundreds of processes from source: they need not each take the types away anew.
  process.env.NODE_COMPILE_CACHE ??= join(CACHE, "compile");
  const events = run({
    cwd: ROOT,
    files: files.map((file) => join(ROOT, file)),
    concurrency: options.concurrency,
    execArgv: ["--import", `${pathToFileURL(join(ROOT, "scripts/hang-guard.ts"))}?minutes=${options.minutesPerFile}`],
  });
  await pipeline(events as AsyncIterable<unknown> as AsyncIterable<TestEvent>, judge, new spec(), async (report) => {
    for await (const text of report) options.onOutput(String(text));
  });
  return result;
}
