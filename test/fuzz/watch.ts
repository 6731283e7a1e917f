/**
 * Runs fuzz cases in a thread and watches over it: a case that does not end, and one that takes memory without bound, are failures like any other, with their
 * number.
 */
import { Worker } from "node:worker_threads";
import { loadCorpus } from "./corpus.ts";
import { caseOf } from "./draw-case.ts";
import { Mutator } from "./mutate.ts";
import type { WorkerReport, WorkerTask } from "./worker.ts";

/** A case takes milliseconds. */
const HUNG_AFTER_MS = 30_000;
const LOOK_EVERY_MS = 200;
/** Of the whole process, above what it had at the start. */
const MOST_MEMORY = 768 * 1024 * 1024;

export interface FuzzRun {
  readonly seed: number;
  readonly first: number;
  readonly count: number;
  readonly format?: string | undefined;
  /** Called now and then with the number of the case under way. */
  readonly onProgress?: (index: number) => void;
}

/** Runs [first, first + count). */
export async function watchCases(run: FuzzRun): Promise<WorkerReport> {
  const current = new SharedArrayBuffer(4);
  const progress = new Uint32Array(current);
  progress[0] = run.first;
  const { seed, first, count, format } = run;
  const task: WorkerTask = { seed, first, count, format, current };
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: task });
  const before = process.memoryUsage.rss();
  let last = { index: -1, since: 0 };
  const { promise, resolve } = Promise.withResolvers<WorkerReport>();
  const fail = (message: string) => {
    const index = Atomics.load(progress, 0);
    const { image, steps } = caseOf(new Mutator(loadCorpus(format)), seed, index).mutant;
    const failure = { index, message: `${image.name} (${steps.join("; ")}): ${message}` };
    resolve({ outcomes: { refused: 0, read: 0, written: 0, sound: 0 }, failure });
  };
  const timer = setInterval(() => {
    const index = Atomics.load(progress, 0);
    run.onProgress?.(index);
    const now = Date.now();
    if (index !== last.index) last = { index, since: now };
    if (now - last.since > HUNG_AFTER_MS) fail(`no end after ${HUNG_AFTER_MS / 1000} s`);
    const memory = process.memoryUsage.rss() - before;
    if (memory > MOST_MEMORY) fail(`${Math.round(memory / 2 ** 20)} MiB of memory`);
  }, LOOK_EVERY_MS);
  worker.once("message", resolve);
  worker.once("error", (error) => fail(`nobody's: ${error instanceof Error ? error.stack : error}`));
  worker.once("exit", () => fail("the thread ended: a request was never answered"));
  try {
    return await promise;
  } finally {
    clearInterval(timer);
    await worker.terminate();
  }
}

/** The command that runs just one case again. */
export function reproduction(seed: number, index: number, format: string | undefined): string {
  const only = format === undefined ? "" : ` --format ${format}`;
  return `npm run fuzz -- --seed ${seed} --first ${index} --cases 1${only}`;
}
