/**
 * Opening on a file system that may never answer (a hung network mount): its caller waits so long and no longer. The call itself cannot be
 * taken back and keeps its thread of the pool; whatever it has opened when it ends after all is closed.
 */
import { type Clock, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";

/** As long as a request may take on such a file system. */
const LONGEST_MS = 30_000;

/**
 * What `opening` opens.
 *
 * @throws {StreamdiskError} `source-lost` when that takes 30 s; otherwise what `opening` throws
 */
export async function openInTime<T extends AsyncDisposable>(
  path: string,
  opening: Promise<T>,
  clock: Clock = systemClock,
): Promise<T> {
  const done = new AbortController();
  const late = clock.sleep(LONGEST_MS, done.signal).then(() => "late" as const);
  try {
    const opened = await Promise.race([opening, late]);
    if (opened !== "late") return opened;
  } finally {
    done.abort();
  }
  void opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => {});
  const message = `'${path}' could not be opened within ${LONGEST_MS / 1000} s: its file system does not answer`;
  throw new StreamdiskError("source-lost", message, { node: path, operation: "open" });
}
