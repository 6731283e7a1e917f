/** What a stream says while it runs and how it ended: the bar and sentences for people, or a line of JSON a progress. */
import { StreamdiskError } from "../errors/index.ts";
import type { StreamProgress } from "../stream/index.ts";
import { Interrupted } from "./interrupt.ts";
import { calledCommand, printJsonLine, printLines, printWarnings } from "./output.ts";
import { type Moment, ProgressMeter } from "./progress.ts";
import { formatDuration, formatSize } from "./units.ts";

export interface StreamReportFlags {
  readonly json?: boolean;
  readonly progress?: boolean;
  readonly base?: string;
}

export class StreamReport {
  readonly #path: string;
  readonly #flags: StreamReportFlags;
  readonly #meter: ProgressMeter;
  readonly #startedAt = performance.now();
  readonly #warned = new Set<string>();
  #waitingFor: string | undefined;
  #last: StreamProgress | undefined;

  constructor(path: string, flags: StreamReportFlags) {
    this.#path = path;
    this.#flags = flags;
    this.#meter = new ProgressMeter(flags.json && !flags.progress ? false : flags.progress);
  }

  update(progress: StreamProgress): void {
    this.#last = progress;
    if (this.#flags.json) printJsonLine(progress);
    const news = progress.warnings.filter((warning) => !this.#warned.has(warning));
    const waiting = progress.state === "waiting" ? progress.reason?.message : undefined;
    if (news.length > 0 || (waiting !== undefined && waiting !== this.#waitingFor)) this.#meter.clear();
    for (const warning of news) this.#warned.add(warning);
    printWarnings(news);
    if (waiting !== undefined && waiting !== this.#waitingFor) printWarnings([`waiting: ${waiting}`]);
    this.#waitingFor = waiting;
    this.#meter.update(momentOf(progress));
  }

  completed(): void {
    this.#meter.finish();
    if (this.#flags.json || this.#last === undefined) return;
    const { localBytes, zeroBytes, copiedBytes } = this.#last;
    const state = this.#flags.base === undefined ? "stands alone now" : `needs nothing above '${this.#flags.base}' now`;
    const took = formatDuration(performance.now() - this.#startedAt);
    printLines(
      `'${this.#path}' ${state}: ${formatSize(localBytes)} local, ${formatSize(zeroBytes)} zero; ` +
        `${formatSize(copiedBytes)} fetched in ${took}`,
    );
  }

  /** The error that a stream ended with, with the command that goes on where another run can. */
  stopped(error: unknown): unknown {
    this.#meter.finish();
    const last = this.#last;
    if (last === undefined) return error;
    const goOn = `Go on with: ${calledCommand()}`;
    const interrupted = Interrupted.behind(error);
    if (interrupted !== undefined) {
      const where = last.reason?.message ?? `What was fetched stays in '${this.#path}'`;
      return new Interrupted(interrupted.stopSignal, `${where}. ${goOn}`);
    }
    if (!(error instanceof StreamdiskError) || !error.row.retryable) return error;
    return new StreamdiskError(error.code, `${error.message}. ${goOn}`, error.context, error);
  }
}

/** Local and known-zero bytes are done. */
function momentOf(progress: StreamProgress): Moment {
  const { localBytes, zeroBytes, missingBytes, rate, eta } = progress;
  const done = localBytes + zeroBytes;
  return { done, total: done + missingBytes, rate, eta, note: noteOf(progress) };
}

function noteOf({ state, reason }: StreamProgress): string | undefined {
  if (state !== "waiting") return undefined;
  return reason?.retryIn === undefined ? "waiting" : `waiting, next try in ${formatDuration(reason.retryIn)}`;
}
