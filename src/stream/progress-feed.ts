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

/** Bytes a second over the last samples. */
export class RateMeter {
  readonly #samples: { now: number; bytes: number }[] = [];

  /** @param bytes in all, so far */
  sample(now: number, bytes: number): void {
    this.#samples.push({ now, bytes });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  get rate(): number {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.now <= first.now) return 0;
    return Math.round(((last.bytes - first.bytes) * 1000) / (last.now - first.now));
  }
}
