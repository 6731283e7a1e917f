/**
 * Counts what is asked of a source, and how long its answers take. It belongs right around the source, below the watch: so it sees
 * probes too, and nothing of what a lost source is not asked.
 *
 * Only reads have their time taken: other requests are few, and as long as what they look at.
 */
import { type BlockNode, type Clock, type Extent, LatencyHistogram, systemClock } from "../block/index.ts";
import { type ErrorCode, StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

/** What was counted since the source was opened. Plain data. */
export interface SourceCounts {
  readonly requests: number;
  /** Of reads that were answered. */
  readonly bytes: number;
  readonly errors: number;
  readonly lastError?: SourceFailure;
  /** For a `LatencyHistogram`: how long reads took. */
  readonly latency: Float64Array;
}

export interface SourceFailure {
  readonly code: ErrorCode;
  readonly message: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/** Failures that are the caller's, and say nothing of the source. */
const CALLERS: readonly ErrorCode[] = ["invalid-argument", "shutdown"];

export class Metered extends ReadOnlyFilter {
  readonly #clock: Clock;
  readonly #latency = new LatencyHistogram();
  #requests = 0;
  #bytes = 0;
  #errors = 0;
  #lastError: SourceFailure | undefined;

  constructor(source: BlockNode, clock: Clock = systemClock) {
    super(source);
    this.#clock = clock;
  }

  get counts(): SourceCounts {
    return {
      requests: this.#requests,
      bytes: this.#bytes,
      errors: this.#errors,
      ...(this.#lastError !== undefined && { lastError: this.#lastError }),
      latency: this.#latency.counts,
    };
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const { length } = target;
    const began = this.#clock.now();
    await this.#count(this.source.read(offset, target, signal));
    this.#latency.record(this.#clock.now() - began);
    this.#bytes += length;
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#count(this.source.extents(offset, length));
  }

  async #count<T>(answer: Promise<T>): Promise<T> {
    this.#requests++;
    try {
      return await answer;
    } catch (error) {
      if (error instanceof StreamdiskError && !CALLERS.includes(error.code)) {
        this.#errors++;
        this.#lastError = { code: error.code, message: error.message, time: Date.now() };
      }
      throw error;
    }
  }
}
