/**
 * What the demo's disk must read as, computed without any image: a base of which about half is holes, and guest writes
 * over it. Every byte follows from the seed, so that nothing has to be kept to verify against.
 */

const MIB = 1024 ** 2;
const SECTOR = 512;
const MAX_WRITE = 256 * 1024;

/** One act of the guest; `seed` 0 writes zeroes. */
export interface GuestWrite {
  readonly offset: number;
  readonly length: number;
  readonly seed: number;
}

export class DiskModel {
  readonly length: number;
  readonly writes: readonly GuestWrite[];
  readonly #seed: number;

  constructor(mebibytes: number, writeCount: number, seed = 1) {
    this.length = mebibytes * MIB;
    this.#seed = seed;
    const random = randomNumbers(seed);
    const below = (limit: number) => Math.floor((random() / 2 ** 32) * limit);
    this.writes = Array.from({ length: writeCount }, (_, index) => {
      const length = SECTOR * (1 + below(MAX_WRITE / SECTOR));
      return { offset: SECTOR * below((this.length - length) / SECTOR), length, seed: index % 6 === 5 ? 0 : random() };
    });
  }

  /** Bytes of each piece that {@link DiskModel.piece} returns. */
  get pieceBytes(): number {
    return MIB;
  }

  /** A piece of the base; undefined where it is a hole. */
  basePiece(offset: number): Uint8Array<ArrayBuffer> | undefined {
    const seed = mixed(this.#seed ^ mixed(offset / MIB + 1));
    return seed % 2 === 0 ? undefined : pattern(seed, MIB);
  }

  /** What the guest writes. */
  data(write: GuestWrite): Uint8Array<ArrayBuffer> {
    return write.seed === 0 ? new Uint8Array(write.length) : pattern(write.seed, write.length);
  }

  /** A piece of the disk as its guest must see it after so many writes. */
  piece(offset: number, written: number): Uint8Array {
    const expected = this.basePiece(offset) ?? new Uint8Array(MIB);
    for (const write of this.writes.slice(0, written)) {
      const start = Math.max(offset, write.offset);
      const end = Math.min(offset + MIB, write.offset + write.length);
      if (start < end)
        expected.set(this.data(write).subarray(start - write.offset, end - write.offset), start - offset);
    }
    return expected;
  }
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
