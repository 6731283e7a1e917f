/** The stream job over an overlay of QEMU's: paced by its guest, and with the export that goes away with it. */
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamJob, type StreamOptions, type StreamProgress } from "../../stream/index.ts";
import type { FillExport } from "./fill-server.ts";
import { type GuestIo, paceByGuest } from "./guest-pace.ts";
import type { QemuTarget } from "./qemu-target.ts";

/** How QEMU is made to fetch: `fill` by our stream job, `block-stream` by its own. */
export type StreamMethod = "fill" | "block-stream";

/** A stream of a domain's disk, which runs when it is told to or read from. */
export interface DomainStream extends AsyncIterable<StreamProgress> {
  readonly method: StreamMethod;
  readonly progress: StreamProgress;
  /** Settles with its end; all that was put into QEMU is out of it again. */
  run(): Promise<void>;
  setSpeed(speed: number | undefined): void;
  pause(): void;
  resume(): void;
  cancel(reason?: unknown): void;
}

export interface FillStreamParts {
  readonly target: QemuTarget;
  readonly fill: FillExport;
  /** What the guest has had of the disk. */
  readonly guest: () => Promise<GuestIo | undefined>;
}

export class FillStream implements DomainStream {
  readonly method = "fill";
  readonly #job: StreamJob;
  readonly #parts: FillStreamParts;
  readonly #clock: Clock;
  /** What could not be taken out of QEMU. */
  #left: string | undefined;
  #running: Promise<void> | undefined;

  constructor(parts: FillStreamParts, options: StreamOptions) {
    this.#job = new StreamJob(parts.target, options);
    this.#parts = parts;
    this.#clock = options.clock ?? systemClock;
  }

  get progress(): StreamProgress {
    const { progress } = this.#job;
    return this.#left === undefined ? progress : { ...progress, warnings: [...progress.warnings, this.#left] };
  }

  run(): Promise<void> {
    this.#running ??= this.#main();
    return this.#running;
  }

  async #main(): Promise<void> {
    const { fill, guest } = this.#parts;
    const over = new AbortController();
    const pacing = paceByGuest(this.#job, { look: guest, clock: this.#clock, signal: over.signal });
    try {
      await this.#job.run();
    } catch (error) {
      // Why the stream ended counts; that something of it is left is told beside it.
      await fill.remove().catch((left: Error) => {
        this.#left = left.message;
      });
      throw error;
    } finally {
      over.abort();
      await pacing;
    }
    await fill.remove();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamProgress, void, undefined> {
    const running = this.run();
    running.catch(() => {});
    try {
      yield* this.#job;
    } finally {
      await running.catch(() => {});
    }
    await running;
  }

  setSpeed(speed: number | undefined): void {
    this.#job.setSpeed(speed);
  }

  pause(): void {
    this.#job.pause();
  }

  resume(): void {
    this.#job.resume();
  }

  cancel(reason?: unknown): void {
    this.#job.cancel(reason);
  }
}
