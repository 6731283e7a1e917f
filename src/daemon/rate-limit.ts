/** How often one client may call: a bucket of tokens each, which fills up steadily. Keeps a client that spins from the others. */
import type { Clock } from "../block/index.ts";

export interface Rate {
  /** Requests a second in the long run. */
  readonly perSecond: number;
  /** Requests at once. */
  readonly burst: number;
}

/** Clients that are remembered; who is not has a full bucket. */
const MOST_CLIENTS = 4096;

interface Bucket {
  tokens: number;
  at: number;
}

export class RateLimit {
  readonly #rate: Rate;
  readonly #clock: Clock;
  /** The one that has called last is the last. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(rate: Rate, clock: Clock) {
    this.#rate = rate;
    this.#clock = clock;
  }

  /** Takes one request of a client. @returns 0, or the milliseconds that it has to wait */
  take(client: string): number {
    const now = this.#clock.now();
    const bucket = this.#buckets.get(client) ?? { tokens: this.#rate.burst, at: now };
    const gained = ((now - bucket.at) / 1000) * this.#rate.perSecond;
    bucket.tokens = Math.min(this.#rate.burst, bucket.tokens + gained);
    bucket.at = now;
    this.#buckets.delete(client);
    this.#buckets.set(client, bucket);
    if (this.#buckets.size > MOST_CLIENTS) this.#forgetFirst();
    if (bucket.tokens < 1) return ((1 - bucket.tokens) / this.#rate.perSecond) * 1000;
    bucket.tokens -= 1;
    return 0;
  }

  #forgetFirst(): void {
    for (const client of this.#buckets.keys()) {
      this.#buckets.delete(client);
      return;
    }
  }
}
