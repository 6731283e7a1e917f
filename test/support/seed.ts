/**
 * All randomness of the tests. One number decides it: STREAMDISK_SEED, or else one made from the commit, so that every
 * commit looks at other cells and a failure can be had again. `npm test` prints it.
 *
 * STREAMDISK_TEST=full takes every cell instead of a sample.
 */
import { execFileSync } from "node:child_process";

const WITHOUT_GIT = 20100408;

export const seed: number = seedFromEnvironment() ?? seedFromCommit();

/** Whether every cell is to be run. */
export const full: boolean = process.env.STREAMDISK_TEST === "full";

/** A generator of numbers in [0, 1). The same seed and name give the same numbers, whatever other tests draw. */
export function rng(name: string): () => number {
  // Mulberry32, a 32-bit generator by Tommy Ettinger, in the public domain.
  let state = (hash(name) ^ seed) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** All cells when `full`, otherwise `count` of them by the seed, in their own order. */
export function sample<T>(name: string, cells: readonly T[], count: number): T[] {
  if (full) return [...cells];
  const random = rng(name);
  return cells
    .map((cell, index) => ({ cell, index, lot: random() }))
    .sort((a, b) => a.lot - b.lot)
    .slice(0, count)
    .sort((a, b) => a.index - b.index)
    .map(({ cell }) => cell);
}

/** How many rounds to do. */
export function pick(sampleCount: number, fullCount: number): number {
  return full ? fullCount : sampleCount;
}

function seedFromEnvironment(): number | undefined {
  const text = process.env.STREAMDISK_SEED;
  if (text === undefined || text === "") return undefined;
  if (!/^\d+$/.test(text) || Number(text) >= 2 ** 32) {
    throw new Error(`STREAMDISK_SEED must be a whole number below 4294967296, not '${text}'`);
  }
  return Number(text);
}

function seedFromCommit(): number {
  try {
    const commit = execFileSync("git", ["rev-parse", "HEAD"], {
      cwd: import.meta.dirname,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return Number.parseInt(commit.slice(0, 8), 16);
  } catch {
    return WITHOUT_GIT;
  }
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const byte of Buffer.from(text)) value = Math.imul(value ^ byte, 0x01000193);
  return value >>> 0;
}
