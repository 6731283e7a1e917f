/** Who waits for what, as long as a signal is not aborted: one listener for all of them, since a client has one signal for all it asks. */
const waiting = new WeakMap<AbortSignal, Set<() => void>>();

/** Waits for what others may go on waiting for: no longer than the caller does. */
export function whileWanted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const stops = stopsOf(signal);
    const stop = (): void => reject(signal.reason);
    if (signal.aborted) stop();
    else stops.add(stop);
    promise.then(
      (value) => {
        stops.delete(stop);
        resolve(value);
      },
      (error: unknown) => {
        stops.delete(stop);
        reject(error);
      },
    );
  });
}

function stopsOf(signal: AbortSignal): Set<() => void> {
  let stops = waiting.get(signal);
  if (stops === undefined) {
    const all = new Set<() => void>();
    waiting.set(signal, all);
    signal.addEventListener(
      "abort",
      () => {
        for (const stop of all) stop();
        all.clear();
      },
      { once: true },
    );
    stops = all;
  }
  return stops;
}
