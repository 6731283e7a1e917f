/**
 * A stream that QEMU does by itself, where an overlay can't be filled through an export: one request at a time, holes read over the wire,
 * and only as durable as its end. It looks like a `StreamJob` from outside.
 */
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { StreamProgress, StreamReason, StreamState } from "../../stream/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpJob } from "../qmp/commands.ts";
import { finishJob, withJob } from "./drop-backing.ts";
import { flushNode } from "./human-monitor.ts";
import type { Overlay } from "./locate-overlay.ts";
import { ownSources, removeNodes } from "./own-sources.ts";

export interface BlockStreamOptions {
  readonly qmp: QmpClient;
  readonly overlay: Overlay;
  /** Bytes a second. Absent: as fast as it goes. */
  readonly speed?: number | undefined;
  /** What its user should know. */
  readonly warnings: readonly string[];
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock | undefined;
}

const PROGRESS_MS = 200;

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
    this.#tell(() => this.#options.qmp.execute("block-job-set-speed", { device: this.#id, speed: speed ?? 0 }));
  }

  pause(): void {
    this.#paused = true;
    this.#tell(() => this.#options.qmp.execute("job-pause", { id: this.#id }));
  }

  resume(): void {
    this.#paused = false;
    this.#tell(() => this.#options.qmp.execute("job-resume", { id: this.#id }));
  }

  cancel(reason: unknown = new DOMException("The stream was cancelled.", "AbortError")): void {
    this.#stop.abort(reason);
    this.#tell(() => this.#options.qmp.execute("job-cancel", { id: this.#id }));
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
      const speed = this.#speed === undefined ? {} : { speed: Math.max(1, Math.floor(this.#speed)) };
      const args = { "job-id": id, device: overlay.node, "auto-finalize": false, "auto-dismiss": false } as const;
      const sources = await ownSources(qmp, overlay);
      await qmp.execute("block-stream", { ...args, ...speed });
      this.#began = this.#clock.now();
      const flush = (): Promise<void> => flushNode(qmp, overlay);
      await finishJob(qmp, overlay.name, { id, copies: true, flush }, (job) => this.#look(job));
      await removeNodes(qmp, sources);
      this.#state = "completed";
    } catch (error) {
      throw this.#ended(error);
    } finally {
      this.#job = undefined;
      signal?.removeEventListener("abort", cancel);
    }
  }

  #look(job: QmpJob): void {
    const first = this.#job === undefined;
    this.#job = job;
    this.#state = job.status === "paused" || (job.status === "standby" && this.#paused) ? "paused" : "running";
    // What was asked for before there was a job.
    if (first && this.#paused) this.pause();
    if (first && this.#stop.signal.aborted) this.cancel(this.#stop.signal.reason);
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
