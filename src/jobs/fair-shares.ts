/**
 * How bandwidth is divided among streams: max-min fairness, by filling up ("progressive filling").
 *
 * Limits are of all streams together or of those from one source, so a stream may be under several. The shares of all grow
 * together from nothing. One whose share has come to what it can use stands still, and so do all under a limit that is used up; the
 * others grow on. So nobody could have more without taking it from somebody who has no more than that, and who needs less than an equal
 * part leaves the rest to others. What nobody can use is then given out in the same way up to each stream's own limit, so that
 * who becomes faster finds room.
 *
 * The shares under a limit never add up to more than it.
 */

/** A stream that takes its share. */
export interface Taker {
  /** What it can use, as far as anybody knows, in bytes a second; Infinity for as much as it gets. */
  readonly want: number;
  /** Its own limit. */
  readonly speed: number;
  /** Which limits it is under. */
  readonly limits: readonly string[];
}

/**
 * Divides.
 *
 * @param limits bytes a second by name
 * @returns bytes a second of each taker, in their order; Infinity for one without any limit
 */
export function fairShares(takers: readonly Taker[], limits: ReadonlyMap<string, number>): number[] {
  const shares = takers.map(() => 0);
  const room = new Map(limits);
  fill(takers, ({ want, speed }) => Math.min(want, speed), shares, room);
  fill(takers, ({ speed }) => speed, shares, room);
  return shares;
}

/** Lets shares grow together, each to its ceiling at the most, as long as there is room. */
function fill(
  takers: readonly Taker[],
  ceiling: (taker: Taker) => number,
  shares: number[],
  room: Map<string, number>,
): void {
  const share = (at: number): number => shares[at] ?? 0;
  const left = (limit: string): number => room.get(limit) ?? Number.POSITIVE_INFINITY;
  let growing = takers.map((taker, at) => ({ ...taker, at, ceiling: ceiling(taker) }));
  for (;;) {
    growing = growing.filter((one) => share(one.at) < one.ceiling && one.limits.every((limit) => left(limit) > 0));
    if (growing.length === 0) return;
    const under = new Map<string, number>();
    for (const { limits } of growing) for (const limit of limits) under.set(limit, (under.get(limit) ?? 0) + 1);
    // Who or what comes first to its end says how far all grow.
    const steps = growing.map((one) => one.ceiling - share(one.at));
    const step = Math.min(...steps, ...Array.from(under, ([limit, count]) => left(limit) / count));
    growing.forEach(({ at, ceiling: end }, i) => {
      shares[at] = steps[i] === step ? end : share(at) + step;
    });
    for (const [limit, count] of under) {
      if (room.has(limit)) room.set(limit, left(limit) / count === step ? 0 : left(limit) - step * count);
    }
  }
}
