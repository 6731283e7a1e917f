import type { Clock } from "../block/index.ts";

/** What may pass at once after a time of nothing: a tenth of a second's worth. */
const BURST_MS = 100;
/** So soon a change of speed is noticed by who waits. */
const LONGEST_SLEEP_MS = 1000;

/**
 * A token bucket over bytes. A request passes as soon as the bucket is not in debt and takes its whole size out, so that
 * a request larger than the bucket still passes and the ones after it wait the longer.
 */
export class RateLimit {
  #bytesPerMs: number;
  readonly #clock: Clock;
  #tokens = 0;
  #filledAt: number;
  #waitedMs = 0;
  #waitingSince: number | undefined;

  /** @param speed bytes a second; Infinity for no limit */
  constructor(speed: number, clock: Clock) {
    this.#bytesPerMs = speed / 1000;
    this.#clock = clock;
    this.#filledAt = clock.now();
  }

  /** Holds for what passes from now on, and for who waits at the next look. */
  set speed(speed: number) {
    this.#fill();
    this.#bytesPerMs = speed / 1000;
    this.#tokens = Math.min(0, this.#tokens);
  }

  get unlimited(): boolean {
    return this.#bytesPerMs === Number.POSITIVE_INFINITY;
  }

  /** Milliseconds that it has held requests back since the start. */
  get waitedMs(): number {
    return this.#waitedMs + (this.#waitingSince === undefined ? 0 : this.#clock.now() - this.#waitingSince);
  }

  /** Resolves when `bytes` may pass, or at once when the signal aborts. One asks at a time. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    this.#fill();
    while (this.#tokens < 0 && !signal.aborted) {
      this.#waitingSince = this.#filledAt;
      await this.#clock.sleep(Math.min(LONGEST_SLEEP_MS, Math.ceil(-this.#tokens / this.#bytesPerMs)), signal);
      this.#fill();
      this.#waitedMs += this.#filledAt - this.#waitingSince;
      this.#waitingSince = undefined;
    }
    this.#tokens -= bytes;
  }

  #fill(): void {
    const now = this.#clock.now();
    const most = this.#bytesPerMs * BURST_MS;
    const since = now - this.#filledAt;
    this.#filledAt = now;
    this.#tokens = this.unlimited ? 0 : Math.min(most, this.#tokens + since * this.#bytesPerMs);
  }
}
