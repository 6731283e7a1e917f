/**
 * What a promise comes to, if it does so soon. Otherwise it goes on, and its end, a bad one too, is nobody's any more.
 *
 * @param ms how long it is waited for, in milliseconds
 * @returns undefined when it takes longer
 */
export async function within<T>(result: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  return Promise.race([result, late]).finally(() => clearTimeout(timer));
}
