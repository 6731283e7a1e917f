/**
 * Does the parts of a request at once. A part may fail before anybody waits for it, and the request must not end before all
 * of its parts have: they fill its caller's buffer.
 *
 * @param begin begins the parts; `add` says whether it is worth going on, which it is not once a part has failed
 * @throws what `begin` throws, or else what the first of the parts that failed throws
 */
export async function together(begin: (add: (part: Promise<void>) => boolean) => Promise<void>): Promise<void> {
  const parts: Promise<void>[] = [];
  let failed = false;
  const add = (part: Promise<void>): boolean => {
    parts.push(part);
    part.catch(() => {
      failed = true;
    });
    return !failed;
  };
  const results = await Promise.allSettled([begin(add)]);
  results.push(...(await Promise.allSettled(parts)));
  for (const result of results) {
    if (result.status === "rejected") throw result.reason;
  }
}
