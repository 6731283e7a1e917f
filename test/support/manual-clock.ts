import type { Clock } from "../../src/block/index.ts";

interface Sleeper {
  readonly until: number;
  readonly wake: () => void;
}

/** A clock that a test moves by hand: hours pass in no time. */
export class ManualClock implements Clock {
  /** How long each sleep was to last, in order. */
  readonly slept: number[] = [];
  #now = 0;
  readonly #sleepers = new Set<Sleeper>();

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.slept.push(ms);
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const sleeper: Sleeper = {
        until: this.#now + ms,
        wake: () => {
          this.#sleepers.delete(sleeper);
          signal?.removeEventListener("abort", sleeper.wake);
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", sleeper.wake, { once: true });
    });
  }

  /** Moves the clock and wakes who is due, in order; lets everything that is ready run before and after each. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await quiet();
      const next = [...this.#sleepers].sort((a, b) => a.until - b.until)[0];
      if (next === undefined || next.until > end) break;
      this.#now = next.until;
      next.wake();
    }
    this.#now = end;
    await quiet();
  }

  /** Moves the clock on and on until `done` settles. */
  async runUntil<T>(done: Promise<T>, stepMs = 50): Promise<T> {
    let settled = false;
    const mark = (): void => {
      settled = true;
    };
    done.then(mark, mark);
    while (!settled) await this.advance(stepMs);
    return done;
  }
}

/** Lets everything that needs no clock happen. */
async function quiet(): Promise<void> {
  for (let i = 0; i < 8; i++) await new Promise((resolve) => setImmediate(resolve));
}
