import type { StreamProgress } from "./progress.ts";

/**
 * Hands progress to one reader. A slow reader misses figures, never a change of state, and holds nothing up.
 */
export class ProgressFeed {
  readonly #waiting: StreamProgress[] = [];
  #wake: (() => void) | undefined;
  #ended = false;

  push(progress: StreamProgress): void {
    if (this.#waiting.at(-1)?.state === progress.state) this.#waiting.pop();
    this.#waiting.push(progress);
    this.#wake?.();
  }

  /** No more comes after what was pushed. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *read(): AsyncGenerator<StreamProgress, void, undefined> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) yield next;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

const SAMPLES = 16;

/** How fast an amount grows: bytes, or milliseconds of waiting. */
export class RateMeter {
  readonly #samples: { now: number; amount: number }[] = [];
  readonly #most: number;

  /** @param most samples that it looks back over */
  constructor(most = SAMPLES) {
    this.#most = most;
  }

  /** @param amount in all, so far */
  sample(now: number, amount: number): void {
    this.#samples.push({ now, amount });
    if (this.#samples.length > this.#most) this.#samples.shift();
  }

  /** Of the amount, a second. */
  get rate(): number {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.now <= first.now) return 0;
    return Math.round(((last.amount - first.amount) * 1000) / (last.now - first.now));
  }
}
