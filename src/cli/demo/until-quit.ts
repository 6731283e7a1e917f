/** What ends it: nobody makes a signal of Ctrl-C (or an end of Ctrl-D) while single keys are read. */
const KEYS = ["q", "Q", "\u0003", "\u0004"];

/** Resolves when somebody at the terminal types `q` or Ctrl-C, or the signal aborts. Standard input must be a terminal. */
export async function untilQuit(signal: AbortSignal): Promise<void> {
  const { stdin } = process;
  const { promise, resolve } = Promise.withResolvers<void>();
  const look = (typed: Buffer): void => {
    const text = typed.toString("latin1");
    if (KEYS.some((key) => text.includes(key))) resolve();
  };
  const stop = (): void => resolve();
  if (signal.aborted) return;
  signal.addEventListener("abort", stop, { once: true });
  stdin.setRawMode(true).on("data", look);
  try {
    await promise;
  } finally {
    stdin.off("data", look).setRawMode(false).pause();
    signal.removeEventListener("abort", stop);
  }
}
