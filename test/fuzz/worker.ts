/**
 * The thread that fuzz cases run in. Before each case it leaves the case's number in shared memory, so that a case that never ends, or
 * eats all memory, is known by the thread that watches (`watch.ts`).
 */
import { parentPort, workerData } from "node:worker_threads";
import { type Outcome, runCase } from "./case.ts";
import { loadCorpus } from "./corpus.ts";
import { caseOf } from "./draw-case.ts";
import { Mutator } from "./mutate.ts";

export interface WorkerTask {
  readonly seed: number;
  readonly first: number;
  readonly count: number;
  readonly format: string | undefined;
  /** One number: the case under way. */
  readonly current: SharedArrayBuffer;
}

export interface WorkerReport {
  readonly outcomes: Readonly<Record<Outcome, number>>;
  readonly failure?: { readonly index: number; readonly message: string };
}

async function work({ seed, first, count, format, current }: WorkerTask): Promise<WorkerReport> {
  const progress = new Uint32Array(current);
  const mutator = new Mutator(loadCorpus(format));
  const outcomes: Record<Outcome, number> = { refused: 0, read: 0, written: 0, sound: 0 };
  for (let index = first; index < first + count; index++) {
    Atomics.store(progress, 0, index);
    const { mutant, random } = caseOf(mutator, seed, index);
    try {
      outcomes[await runCase(mutant, random)]++;
    } catch (error) {
      const message = error instanceof Error ? `${error.message}\n${causeOf(error)}` : String(error);
      return { outcomes, failure: { index, message } };
    }
  }
  return { outcomes };
}

function causeOf(error: Error): string {
  const cause = error.cause instanceof Error ? error.cause : error;
  return cause.stack ?? String(cause);
}

if (parentPort !== null) parentPort.postMessage(await work(workerData as WorkerTask));
