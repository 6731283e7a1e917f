/**
 * What a promise comes to, unless the signal comes first: then its end, a bad one too, is nobody's any more.
 *
 * @throws the signal's reason
 */
export async function unlessAborted<T>(result: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  try {
    return await Promise.race([aborted, result]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
