/** Draws from a generator of numbers in [0, 1), as `rng` of seed.ts makes them. */

export type Random = () => number;

/** A whole number from 0 to `n` - 1. */
export function below(random: Random, n: number): number {
  return Math.floor(random() * n);
}

/** A whole number from `least` to `most`. */
export function between(random: Random, least: number, most: number): number {
  return least + below(random, most - least + 1);
}

export function chance(random: Random, probability: number): boolean {
  return random() < probability;
}

export function oneOf<T>(random: Random, list: readonly T[]): T {
  const drawn = list[below(random, list.length)];
  if (drawn === undefined) throw new Error("Nothing to draw from");
  return drawn;
}

/** A copy in another order. */
export function shuffled<T>(random: Random, list: readonly T[]): T[] {
  return list
    .map((item) => ({ item, lot: random() }))
    .sort((a, b) => a.lot - b.lot)
    .map(({ item }) => item);
}
