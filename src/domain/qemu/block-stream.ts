/**
 * A stream that QEMU does by itself, where an overlay can't be filled through an export: one request at a time, holes read over the wire,
 * and only as durable as its end. It looks like a `StreamJob` from outside.
 *
 * QEMU stops the job at a request that fails (`on-error`), and is told to go on with it, at growing intervals: a job that had failed would have
 * to begin again.
 */
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { StreamProgress, StreamReason, StreamState } from "../../stream/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpJob } from "../qmp/commands.ts";
import { unlessRefused } from "../qmp/qmp-error.ts";
import { finishJob, withJob } from "./drop-backing.ts";
import { flushNode } from "./human-monitor.ts";
import type { Overlay } from "./locate-overlay.ts";
import { ownSources, removeNodes } from "./own-sources.ts";

export interface BlockStreamOptions {
  readonly qmp: QmpClient;
  readonly overlay: Overlay;
  /** Bytes a second. Absent: as fast as it goes. */
  readonly speed?: number | undefined;
  /** Milliseconds that an error which may pass is waited for. @default 0 */
  readonly retryFor?: number | undefined;
  /** What its user should know. */
  readonly warnings: readonly string[];
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock | undefined;
}

const PROGRESS_MS = 200;
const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 10_000;

/** A row of failures between which nothing was fetched. */
interface Stopped {
  readonly since: number;
  readonly offset: number;
  /** How long the last of them is waited for, and until when. */
  retryIn: number;
  retryAt: number;
}

export class BlockStream {
  readonly method = "block-stream";
  readonly #options: BlockStreamOptions;
  readonly #clock: Clock;
  #id = "";
  readonly #stop = new AbortController();
  #state: StreamState = "created";
  #reason: StreamReason | undefined;
  #job: QmpJob | undefined;
  #speed: number | undefined;
  #paused = false;
  #stopped: Stopped | undefined;
  #began: number | undefined;
  #running: Promise<void> | undefined;

  constructor(options: BlockStreamOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#speed = options.speed;
  }

  get progress(): StreamProgress {
    const { length } = this.#options.overlay;
    const done = this.#state === "completed" ? length : Math.min(this.#job?.current ?? 0, length);
    const elapsed = this.#began === undefined ? 0 : this.#clock.now() - this.#began;
    return {
      state: this.#state,
      ...(this.#reason !== undefined && { reason: this.#reason }),
      ...{ offset: done, length, localBytes: done, zeroBytes: 0, missingBytes: length - done, copiedBytes: done },
      ...{
        rate: elapsed > 0 && this.#state === "running" ? (done / elapsed) * 1000 : 0,
        window: 512 * 1024,
        throttled: false,
      },
      warnings: this.#options.warnings,
    };
  }

  run(): Promise<void> {
    this.#running ??= withJob(this.#options.qmp, (id) => this.#main(id));
    return this.#running;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamProgress, void, undefined> {
    let over = false;
    const running = this.run().finally(() => {
      over = true;
    });
    running.catch(() => {});
    try {
      while (!over) {
        yield this.progress;
        await Promise.race([this.#clock.sleep(PROGRESS_MS), running.catch(() => {})]);
      }
      yield this.progress;
    } finally {
      if (!over) this.cancel();
      await running.catch(() => {});
    }
    await running;
  }

  setSpeed(speed: number | undefined): void {
    this.#speed = speed;
    this.#tell(() => this.#options.qmp.execute("block-job-set-speed", { device: this.#id, speed: qemuSpeed(speed) }));
  }

  pause(): void {
    this.#paused = true;
    this.#tell(() => this.#options.qmp.execute("job-pause", { id: this.#id }));
  }

  resume(): void {
    this.#paused = false;
    this.#tell(() => this.#options.qmp.execute("job-resume", { id: this.#id }));
  }

  /** QEMU is told by who takes the job away (`withJob`), while nobody asks for nodes. */
  cancel(reason: unknown = new DOMException("The stream was cancelled.", "AbortError")): void {
    this.#stop.abort(reason);
  }

  /** Tells a running job something; a job that is over has nothing to be told. */
  #tell(what: () => Promise<void>): void {
    if (this.#job !== undefined) void what().catch(() => {});
  }

  async #main(id: string): Promise<void> {
    this.#id = id;
    const { qmp, overlay, signal } = this.#options;
    const cancel = (): void => this.cancel(signal?.reason);
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted) cancel();
    try {
      this.#stop.signal.throwIfAborted();
      const args = { "job-id": id, device: overlay.node, "auto-finalize": false, "auto-dismiss": false } as const;
      const sources = await ownSources(qmp, overlay);
      await qmp.execute("block-stream", { ...args, "on-error": "stop", speed: qemuSpeed(this.#speed) });
      this.#began = this.#clock.now();
      const flush = (): Promise<void> => flushNode(qmp, overlay);
      const job = { id, copies: true, flush, signal: this.#stop.signal };
      await finishJob(qmp, overlay.name, job, (one) => this.#look(one));
      await removeNodes(qmp, sources);
      this.#state = "completed";
    } catch (error) {
      throw this.#ended(error);
    } finally {
      this.#job = undefined;
      signal?.removeEventListener("abort", cancel);
    }
  }

  async #look(job: QmpJob): Promise<void> {
    const first = this.#job === undefined;
    this.#job = job;
    // What was asked for before there was a job.
    if (first) this.setSpeed(this.#speed);
    if (first && this.#paused) this.pause();
    if (job.current !== this.#stopped?.offset) this.#stopped = undefined;
    if (job.status === "paused" && !this.#paused) return this.#goOn(job);
    this.#become(job.status === "paused" ? "paused" : "running");
  }

  /** Has a job go on that an error has stopped, when it is time to. */
  async #goOn({ id, current: offset }: QmpJob): Promise<void> {
    const { qmp, retryFor = 0 } = this.#options;
    const jobs = await qmp.execute("query-block-jobs", {});
    const { ioStatus = "ok" } = jobs.find((one) => one.id === id) ?? {};
    // Somebody else has it pause.
    if (ioStatus === "ok") return this.#become("paused");
    const now = this.#clock.now();
    this.#stopped ??= { since: now, offset, retryIn: FIRST_RETRY_MS / 2, retryAt: now };
    const stopped = this.#stopped;
    if (this.#state !== "waiting") {
      const left = stopped.since + retryFor - now;
      if (left <= 0) throw stoppedBy(ioStatus, this.#options.overlay, offset);
      stopped.retryIn = Math.min(stopped.retryIn * 2, LONGEST_RETRY_MS, left);
      stopped.retryAt = now + stopped.retryIn;
      const { code, message } = stoppedBy(ioStatus, this.#options.overlay, offset);
      this.#become("waiting", { code, message, offset, retryIn: stopped.retryIn });
    } else if (now >= stopped.retryAt) {
      this.#become("running");
      await unlessRefused(qmp.execute("job-resume", { id }));
    }
  }

  #become(state: StreamState, reason?: StreamReason): void {
    this.#state = state;
    this.#reason = reason;
  }

  #ended(error: unknown): unknown {
    const { overlay } = this.#options;
    const stays = `The stream stopped at ${this.progress.offset} of ${overlay.length} bytes of '${overlay.name}'`;
    if (this.#stop.signal.aborted) {
      this.#reason = { code: "cancelled", message: `${stays}: it was cancelled` };
      this.#state = "cancelled";
      return this.#stop.signal.reason;
    }
    const code = error instanceof StreamdiskError ? error.code : "io";
    const said = error instanceof Error ? error.message : String(error);
    this.#reason = { code, message: `${said}. ${stays}` };
    this.#state = "failed";
    return new StreamdiskError(code, this.#reason.message, { node: overlay.name }, error);
  }
}

/** QEMU's 0 is no limit. */
function qemuSpeed(speed: number | undefined): number {
  return speed === undefined ? 0 : Math.max(1, Math.floor(speed));
}

/** QEMU does not tell which request has failed: reads are those of the source, and writes fail for want of room first. */
function stoppedBy(ioStatus: string, { name }: Overlay, offset: number): StreamdiskError {
  const context = { node: name, offset };
  if (ioStatus === "nospace") {
    return new StreamdiskError("no-space", `There is no room left for what is fetched into '${name}'`, context);
  }
  return new StreamdiskError(
    "source-lost",
    `QEMU can't fetch what '${name}' lacks: a read of its source failed`,
    context,
  );
}
