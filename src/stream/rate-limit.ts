import type { Clock } from "../block/index.ts";

/** What may pass at once after a time of nothing: a tenth of a second's worth. */
const BURST_MS = 100;

/**
 * A token bucket over bytes. A request passes as soon as the bucket is not in debt and takes its whole size out, so that
 * a request larger than the bucket still passes and the ones after it wait the longer.
 */
export class RateLimit {
  readonly #bytesPerMs: number;
  readonly #clock: Clock;
  #tokens = 0;
  #filledAt: number;

  /** @param speed bytes a second */
  constructor(speed: number, clock: Clock) {
    this.#bytesPerMs = speed / 1000;
    this.#clock = clock;
    this.#filledAt = clock.now();
  }

  /** Resolves when `bytes` may pass, or at once when the signal aborts. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    this.#fill();
    while (this.#tokens < 0 && !signal.aborted) {
      await this.#clock.sleep(-this.#tokens / this.#bytesPerMs, signal);
      this.#fill();
    }
    this.#tokens -= bytes;
  }

  #fill(): void {
    const now = this.#clock.now();
    const most = this.#bytesPerMs * BURST_MS;
    this.#tokens = Math.min(most, this.#tokens + (now - this.#filledAt) * this.#bytesPerMs);
    this.#filledAt = now;
  }
}
