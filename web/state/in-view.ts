/**
 * A browser keeps six connections to a host, for all of its tabs together, and a line that the daemon tells something on takes one for
 * good. So a tab that nobody sees holds none: it lets go of its lines, and calls again when it is looked at.
 */

/** Does something while the page is in view, and anew each time that it comes into view, until the signal aborts. */
export async function whileInView(signal: AbortSignal, run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await becomes(false, signal);
    if (signal.aborted) return;
    const leaving = new AbortController();
    const over = AbortSignal.any([signal, leaving.signal]);
    void becomes(true, over).then(() => leaving.abort());
    await run(over);
    // It has ended by itself.
    if (!over.aborted) return;
  }
}

/** Resolves when the page is hidden or not, or the signal aborts. */
function becomes(hidden: boolean, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (document.hidden !== hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
    look();
  });
}
