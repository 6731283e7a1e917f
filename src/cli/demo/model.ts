/**
 * What the demo's disk must read as, computed without any image, and what its guest does to it. Every byte follows from the seed and from
 * how often the guest has done what, so that nothing has to be kept to verify against.
 *
 * The disk is made of blocks. The first has what the guest runs and knows (`guest-program.ts`); of those after it each is looked at once at
 * most, which reads it all or writes a part of it; the last ones are the guest's working set, into which each beat writes a whole one.
 */
import { createHash } from "node:crypto";

const MIB = 1024 ** 2;
/** As large as a cluster: to write a whole one needs nothing of what is below. */
export const BLOCK = 64 * 1024;
/** What a look writes, at the beginning of its block. */
export const LOOK_BYTES = 4096;
const WORKING_SET = 256;
const MAX_LOOKS = 1500;
/** Coprime to the size of the working set: beats visit all of it. */
const STRIDE = 7;

/** What the guest's second program does next: reads a block, or writes a part of it. */
export interface Look {
  readonly block: number;
  readonly isWrite: boolean;
}

/** How often the guest has done what; the disk follows from that. */
export interface Deeds {
  readonly beats: number;
  readonly looks: number;
}

export class DiskModel {
  readonly length: number;
  readonly looks: readonly Look[];
  /** Where the working set begins, in blocks. */
  readonly workingSet: number;
  readonly #seed: number;
  readonly #sums = new Map<number, string>();

  constructor(mebibytes: number, seed = 1) {
    this.length = mebibytes * MIB;
    this.workingSet = this.length / BLOCK - WORKING_SET;
    this.#seed = seed;
    const random = randomNumbers(seed);
    const order = Array.from({ length: this.workingSet - 1 }, (_, index) => ({ block: index + 1, lot: random() }));
    order.sort((a, b) => a.lot - b.lot);
    this.looks = order.slice(0, MAX_LOOKS).map(({ block }, index) => ({ block, isWrite: index % 2 === 1 }));
  }

  /** Bytes of each piece that {@link DiskModel.piece} returns. */
  get pieceBytes(): number {
    return MIB;
  }

  /** A piece of the base without its first block; undefined where it is a hole. */
  basePiece(offset: number): Uint8Array<ArrayBuffer> | undefined {
    const seed = mixed(this.#seed ^ mixed(offset / MIB + 1));
    return seed % 2 === 0 ? undefined : pattern(seed, MIB);
  }

  /** What a block of the base must have for a sum, as the guest's `md5sum` makes it. */
  sum(block: number): string {
    const known = this.#sums.get(block);
    if (known !== undefined) return known;
    const first = block - (block % (MIB / BLOCK));
    const piece = this.basePiece(first * BLOCK) ?? new Uint8Array(MIB);
    for (let at = 0; at < MIB; at += BLOCK) {
      const sum = createHash("md5")
        .update(piece.subarray(at, at + BLOCK))
        .digest("hex");
      this.#sums.set(first + at / BLOCK, sum);
    }
    return this.sum(block);
  }

  /** The block that a beat writes; beats are counted from 1. */
  beatBlock(beat: number): number {
    return this.workingSet + ((beat * STRIDE) % WORKING_SET);
  }

  /** The same for a shell: of the variable `n`. */
  get beatBlockInShell(): string {
    return `$((${this.workingSet} + n * ${STRIDE} % ${WORKING_SET}))`;
  }

  /** A piece of the disk as its guest must see it after what it did. */
  piece(offset: number, firstBlock: Uint8Array, { beats, looks }: Deeds): Uint8Array {
    const expected = this.basePiece(offset) ?? new Uint8Array(MIB);
    const put = (at: number, data: () => Uint8Array): void => {
      if (at >= offset && at < offset + MIB) expected.set(data(), at - offset);
    };
    put(0, () => firstBlock);
    this.looks.slice(0, looks).forEach(({ block, isWrite }, index) => {
      if (isWrite) put(block * BLOCK, () => written(`look ${index + 1}`, LOOK_BYTES));
    });
    for (let beat = 1; beat <= beats; beat++) put(this.beatBlock(beat) * BLOCK, () => written(`beat ${beat}`, BLOCK));
    return expected;
  }
}

/** What `yes TEXT` makes. */
export function written(text: string, length: number): Buffer {
  return Buffer.alloc(length, `${text}\n`);
}

function pattern(seed: number, length: number): Uint8Array<ArrayBuffer> {
  const random = randomNumbers(seed);
  const words = new Uint32Array(length / 4);
  for (let index = 0; index < words.length; index++) words[index] = random();
  return new Uint8Array(words.buffer);
}

/** Xorshift: fast, and good enough to make every sector differ. */
function randomNumbers(seed: number): () => number {
  let state = mixed(seed) || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

function mixed(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return (hash ^ (hash >>> 16)) >>> 0;
}
