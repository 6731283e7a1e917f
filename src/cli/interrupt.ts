/**
 * Ctrl-C and SIGTERM. The first asks the command to stop where the image is in order; the second ends the process at
 * once, as if no one had listened (an image is safe against that too).
 */

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

type StopSignal = keyof typeof SIGNALS;

/** The reason of an abort that a signal asked for. */
export class Interrupted extends Error {
  override readonly name = "AbortError";
  readonly stopSignal: StopSignal;

  /** @param more what else its user is to know, in sentences */
  constructor(stopSignal: StopSignal, more?: string) {
    super(`Interrupted by ${stopSignal}${more === undefined ? "" : `. ${more}`}`);
    this.stopSignal = stopSignal;
  }

  /** The shell's exit code for a process that this signal ended. */
  get exit(): number {
    return SIGNALS[this.stopSignal];
  }

  /** The interruption that an error is, or was caused by. */
  static behind(error: unknown): Interrupted | undefined {
    for (let at = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
      if (at instanceof Interrupted) return at;
    }
    return undefined;
  }
}

/**
 * Runs something long with a signal that Ctrl-C and SIGTERM abort.
 *
 * @param goesOn where only the waiting ends by that: what goes on, a sentence
 * @throws {Interrupted} when it was stopped, whatever it threw for that
 */
export async function interruptible<T>(run: (signal: AbortSignal) => Promise<T>, goesOn?: string): Promise<T> {
  const controller = new AbortController();
  const stop = (stopSignal: StopSignal) => {
    ignore();
    controller.abort(new Interrupted(stopSignal, goesOn));
  };
  // Nobody listens after the first signal: the next one ends the process as it always does.
  const ignore = () => {
    process.removeListener("SIGINT", stop);
    process.removeListener("SIGTERM", stop);
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await run(controller.signal);
  } catch (error) {
    const isAbort = error instanceof Error && error.name === "AbortError";
    if (isAbort && controller.signal.aborted && Interrupted.behind(error) === undefined) throw controller.signal.reason;
    throw error;
  } finally {
    ignore();
  }
}
