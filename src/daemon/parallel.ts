/** Acts on each item, with a bound on how many at once; resolves when all are done, and throws the first error then. */
export async function inParallel<T>(items: readonly T[], most: number, act: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  const walk = async (): Promise<void> => {
    for (const item of rest) await act(item);
  };
  const walks = Array.from({ length: Math.min(most, items.length) }, walk);
  const failed = (await Promise.allSettled(walks)).find(({ status }) => status === "rejected");
  if (failed?.status === "rejected") throw failed.reason;
}
