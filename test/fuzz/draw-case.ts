/** From a seed and a number to a case. */
import type { Random } from "../support/draw.ts";
import type { Mutant, Mutator } from "./mutate.ts";

/** The case of a number: the same for ever, for one seed and one corpus. */
export function caseOf(mutator: Mutator, seed: number, index: number): { mutant: Mutant; random: Random } {
  const random = generator(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  return { mutant: mutator.draw(random), random };
}

/** Mulberry32, as in `support/seed.ts`. */
function generator(start: number): Random {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
