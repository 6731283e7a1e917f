/**
 * A disk that a domain's QEMU owns, as the job runner sees disks. Its stream outlives QEMU: while that is away, or its monitor is held by
 * another, the stream waits and tries again; a source that is lost is waited for by the stream job itself.
 */
import { EventEmitter } from "node:events";
import { systemClock } from "../block/index.ts";
import type { DomainStream, RunningDomain } from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { StepOptions, StepResult, StreamProgress } from "../stream/index.ts";
import type { StreamedDisk, StreamedDiskEvents, StreamedDiskInfo } from "./streamed-disk.ts";

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30_000;

interface Running {
  readonly stop: AbortController;
  ended: Promise<void>;
  stream?: DomainStream;
}

export interface DomainDiskParts {
  /** Looks anew at what the domain has: a machine that was started again may have other devices. */
  describe(): Promise<unknown>;
  /** What the disks of its machine were filled from when that was last known. */
  remembered(): readonly string[];
  /** Called with a sentence when QEMU's own block-stream has to do. */
  onFallback(why: string): void;
}

export class DomainDisk extends EventEmitter<StreamedDiskEvents> implements StreamedDisk {
  readonly lost = undefined;
  readonly #domain: RunningDomain;
  readonly #target: string;
  readonly #parts: DomainDiskParts;
  #running: Running | undefined;
  #speed: number | undefined;
  #last: StreamProgress | undefined;

  constructor(domain: RunningDomain, target: string, parts: DomainDiskParts) {
    super();
    this.#domain = domain;
    this.#target = target;
    this.#parts = parts;
  }

  /** How it is, or was when its QEMU was last there: a stream waits for that by itself. */
  async info(): Promise<StreamedDiskInfo> {
    try {
      const info = await this.look();
      if (info.hydrated) await this.#domain.letGo(this.#target);
      return info;
    } catch (error) {
      if (this.#last === undefined || !mayComeBack(error)) throw error;
      const { length, localBytes, missingBytes } = this.#last;
      return { length, localBytes, missingBytes, hydrated: false, below: this.#parts.remembered() };
    }
  }

  waitsOut(error: unknown): readonly string[] | undefined {
    return mayComeBack(error) ? this.#parts.remembered() : undefined;
  }

  /** How it is now. */
  async look(): Promise<StreamedDiskInfo> {
    await this.#parts.describe();
    const { length, backingNode, backingFile } = await this.#domain.overlay(this.#target);
    if (backingNode === undefined) return { length, localBytes: length, missingBytes: 0, hydrated: true, below: [] };
    const tally = await this.#domain.tally(this.#target).catch((error) => {
      if (!(error instanceof StreamdiskError) || error.code !== "unsupported") throw error;
      // Only QEMU's own stream tells it then.
      const { localBytes = 0, missingBytes = length } = this.#running?.stream?.progress ?? {};
      return { local: localBytes, missing: missingBytes };
    });
    const below = backingFile === undefined ? [] : [backingFile];
    const info = { length, localBytes: tally.local, missingBytes: tally.missing, hydrated: false, below };
    this.#last = { ...START, length, localBytes: info.localBytes, missingBytes: info.missingBytes };
    return info;
  }

  async stream({ speed }: { readonly speed?: number }): Promise<void> {
    const before = this.cancelStream();
    this.#speed = speed;
    const running: Running = { stop: new AbortController(), ended: Promise.resolve() };
    // At once, so that whoever cancels from now on cancels this one.
    this.#running = running;
    running.ended = before.then(() => this.#keepStreaming(running));
  }

  async cancelStream(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    running?.stop.abort();
    await running?.ended;
  }

  async setSpeed(speed: number | undefined): Promise<void> {
    this.#speed = speed;
    this.#running?.stream?.setSpeed(speed);
  }

  step(options: StepOptions): Promise<StepResult> {
    return this.#domain.step(this.#target, options);
  }

  async #keepStreaming(running: Running): Promise<void> {
    const { signal } = running.stop;
    for (let pause = FIRST_RETRY_MS; ; pause = Math.min(pause * 2, LONGEST_RETRY_MS)) {
      try {
        await this.#streamOnce(running);
        this.emit("hydrated");
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!mayComeBack(error) && !mayPassInQemu(error, running.stream)) {
          this.emit("stream-failed", failureOf(error));
          return;
        }
        const { code, message } = error;
        this.emit("progress", {
          ...(this.#last ?? START),
          state: "waiting",
          reason: { code, message, retryIn: pause },
        });
        await systemClock.sleep(pause, signal);
        if (signal.aborted) return;
      }
    }
  }

  async #streamOnce(running: Running): Promise<void> {
    const { signal } = running.stop;
    const speed = this.#speed === undefined ? {} : { speed: this.#speed };
    await this.#parts.describe();
    const stream = await this.#domain.stream(this.#target, { ...speed, retryFor: Number.POSITIVE_INFINITY, signal });
    running.stream = stream;
    if (stream.method === "block-stream") this.#parts.onFallback(stream.progress.warnings.join(". "));
    for await (const progress of stream) {
      this.#last = progress;
      this.emit("progress", progress);
    }
  }
}

const START: StreamProgress = {
  ...{ state: "running", offset: 0, length: 0, localBytes: 0, zeroBytes: 0, missingBytes: 0, copiedBytes: 0 },
  ...{ rate: 0, window: 0, throttled: false, warnings: [] },
};

/** Whether QEMU is away, or its monitor held by another: that may end without anyone asking for the stream anew. */
export function mayComeBack(error: unknown): error is StreamdiskError {
  if (!(error instanceof StreamdiskError)) return false;
  return error.code === "shutdown" || error.context.operation === "connect";
}

/** Whether QEMU's own stream has ended by what may pass, an answer that did not come in time say: that does not wait for it, as our job does. */
function mayPassInQemu(error: unknown, stream: DomainStream | undefined): error is StreamdiskError {
  return stream?.method === "block-stream" && error instanceof StreamdiskError && error.row.retryable;
}

function failureOf(error: unknown): StreamdiskError {
  return error instanceof StreamdiskError ? error : new StreamdiskError("io", String(error), {}, error);
}
