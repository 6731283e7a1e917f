import type { Clock } from "../../src/block/index.ts";

interface Sleeper {
  readonly until: number;
  readonly wake: () => void;
}

/** Time that passes with the steps of a race: a millisecond a step, or to the next who wakes when nothing else is to be done. */
export class RaceClock implements Clock {
  #now = 0;
  readonly #sleepers = new Set<Sleeper>();

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const wake = (): void => {
        this.#sleepers.delete(sleeper);
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      const sleeper = { until: this.#now + ms, wake };
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", wake, { once: true });
    });
  }

  /** @param idle nobody has anything to do but those who sleep */
  pass(idle: boolean): void {
    let next = this.#now + 1;
    if (idle) {
      const first = Math.min(...[...this.#sleepers].map(({ until }) => until));
      if (Number.isFinite(first)) next = Math.max(next, first);
    }
    this.#now = next;
    for (const sleeper of [...this.#sleepers]) if (sleeper.until <= next) sleeper.wake();
  }
}
