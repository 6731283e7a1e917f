/**
 * Works on items in order of appearance, up to `most` at a time. Ends when all have been worked on, when `work` has
 * answered false (no more are begun, those under way come to their end), or with the first error.
 */
export async function inParallel<T>(
  items: AsyncIterable<T>,
  most: number,
  work: (item: T) => Promise<boolean>,
): Promise<void> {
  const underway = new Set<Promise<void>>();
  let failed: { readonly error: unknown } | undefined;
  let enough = false;
  const run = async (item: T): Promise<void> => {
    try {
      if (!(await work(item))) enough = true;
    } catch (error) {
      failed ??= { error };
    }
  };
  try {
    for await (const item of items) {
      const one = run(item).finally(() => underway.delete(one));
      underway.add(one);
      if (underway.size >= most) await Promise.race(underway);
      if (enough || failed !== undefined) break;
    }
  } finally {
    await Promise.all(underway);
  }
  if (failed !== undefined) throw failed.error;
}
