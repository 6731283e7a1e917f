/** Time, for whatever waits or measures: tests pass one that they move by hand. */
export interface Clock {
  /** Milliseconds since some moment, never going back. */
  now(): number;
  /** Resolves after `ms` milliseconds, or at once when the signal aborts; it never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** `setTimeout` fires at once beyond this. */
const LONGEST_TIMEOUT = 0x7fff_ffff;

export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(ms, LONGEST_TIMEOUT));
      signal?.addEventListener("abort", done, { once: true });
    }),
};
