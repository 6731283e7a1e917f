/**
 * Damages images: numbers become others that are likely to hurt (nothing, the largest, unaligned, the place of other metadata or
 * their own), bits flip, files are cut, lengthened, and spliced with others.
 */
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import type { CorpusImage } from "./corpus.ts";
import { type FieldMap, fieldsOf } from "./fields.ts";

export interface Mutant {
  readonly image: CorpusImage;
  readonly bytes: Uint8Array;
  /** Of the file: zeroes from the bytes on. */
  readonly length: number;
  /** What was done, for whoever looks into a failure. */
  readonly steps: readonly string[];
}

const FLAGS = [0n, 1n << 63n, 1n << 62n, 1n, (1n << 63n) | 1n, (1n << 62n) | (1n << 61n)];
const LIMITS = [
  0n,
  1n,
  2n,
  511n,
  512n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 512n,
  2n ** 53n,
  2n ** 56n - 512n,
  2n ** 63n,
  2n ** 64n - 1n,
];

export class Mutator {
  readonly #images: readonly CorpusImage[];
  readonly #maps = new Map<CorpusImage, FieldMap>();

  constructor(images: readonly CorpusImage[]) {
    this.#images = images;
  }

  draw(random: Random): Mutant {
    const image = oneOf(random, this.#images);
    const bytes = Uint8Array.from(image.bytes);
    const mutation = new Mutation(bytes, this.#map(image), random, this.#images);
    const count = chance(random, 0.02) ? 0 : between(random, 1, chance(random, 0.2) ? 12 : 3);
    for (let step = 0; step < count; step++) mutation.step();
    return { image, bytes: bytes.subarray(0, mutation.kept), length: mutation.length, steps: mutation.steps };
  }

  #map(image: CorpusImage): FieldMap {
    const known = this.#maps.get(image);
    if (known !== undefined) return known;
    const map = fieldsOf(image);
    this.#maps.set(image, map);
    return map;
  }
}

class Mutation {
  readonly steps: string[] = [];
  /** How many of the bytes are left. */
  kept: number;
  length: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #map: FieldMap;
  readonly #random: Random;
  readonly #images: readonly CorpusImage[];

  constructor(bytes: Uint8Array, map: FieldMap, random: Random, images: readonly CorpusImage[]) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
    this.#map = map;
    this.#random = random;
    this.#images = images;
    this.kept = bytes.length;
    this.length = bytes.length;
  }

  step(): void {
    const lot = this.#random();
    if (lot < 0.7) this.#changeField();
    else if (lot < 0.8) this.#flip(below(this.#random, this.#bytes.length));
    else if (lot < 0.86) this.#flip(oneOf(this.#random, this.#map.places) + below(this.#random, 512));
    else if (lot < 0.92) this.#splice();
    else if (lot < 0.96) this.#cut();
    else this.#lengthen();
  }

  #changeField(): void {
    const random = this.#random;
    const group = oneOf(random, this.#map.groups);
    const { at, bytes } = oneOf(random, group);
    const value = this.#drawValue(at, bytes);
    const little = this.#map.littleEndian;
    if (bytes === 1) this.#view.setUint8(at, Number(value & 0xffn));
    else if (bytes === 2) this.#view.setUint16(at, Number(value & 0xffffn), little);
    else if (bytes === 4) this.#view.setUint32(at, Number(value & 0xffffffffn), little);
    else this.#view.setBigUint64(at, value & (2n ** 64n - 1n), little);
    this.steps.push(`${bytes} bytes at ${at} = 0x${value.toString(16)}`);
  }

  #drawValue(at: number, bytes: 1 | 2 | 4 | 8): bigint {
    const random = this.#random;
    const { clusterSize, places, littleEndian } = this.#map;
    const cluster = BigInt(clusterSize);
    const now =
      bytes === 8
        ? this.#view.getBigUint64(at, littleEndian)
        : bytes === 4
          ? BigInt(this.#view.getUint32(at, littleEndian))
          : 0n;
    switch (below(random, 9)) {
      case 0:
        return oneOf(random, LIMITS);
      case 1:
        return now + oneOf(random, [1n, 512n, cluster, -cluster, 8n]);
      case 2:
        return now ^ (1n << BigInt(below(random, bytes * 8)));
      // Itself, when it is an entry of a table.
      case 3:
        return BigInt(at - (at % clusterSize)) | oneOf(random, FLAGS);
      case 4:
        return BigInt(below(random, this.#bytes.length / clusterSize + 2) * clusterSize) | oneOf(random, FLAGS);
      // The end of the file, and past it.
      case 5:
        return BigInt(Math.floor(this.length / clusterSize + oneOf(random, [-1, 0, 1, 1000, 2 ** 30]))) * cluster;
      case 6:
        return BigInt(below(random, 2 ** 32)) << BigInt(oneOf(random, [0, 9, 32]));
      case 7: {
        const { at: other, bytes: width } = oneOf(random, oneOf(random, this.#map.groups));
        return width === 8 && other + 8 <= this.#bytes.length ? this.#view.getBigUint64(other, littleEndian) : 3n;
      }
      default:
        return BigInt(oneOf(random, places)) | oneOf(random, FLAGS);
    }
  }

  #flip(at: number): void {
    if (at >= this.#bytes.length) return;
    this.#bytes[at] = (this.#bytes[at] as number) ^ (1 << below(this.#random, 8));
    this.steps.push(`bit flipped at ${at}`);
  }

  /** A stretch of this image or of another. */
  #splice(): void {
    const random = this.#random;
    const { bytes } = chance(random, 0.5) ? { bytes: this.#bytes } : oneOf(random, this.#images);
    const unit = oneOf(random, [8, 512, 4096]);
    const from = below(random, bytes.length / unit) * unit;
    const to = below(random, this.#bytes.length / unit) * unit;
    const length = Math.min(unit * between(random, 1, 4), bytes.length - from, this.#bytes.length - to);
    this.#bytes.set(bytes.slice(from, from + length), to);
    this.steps.push(`${length} bytes spliced to ${to}`);
  }

  #cut(): void {
    this.kept = Math.min(this.kept, below(this.#random, this.#bytes.length));
    this.length = this.kept;
    this.steps.push(`cut to ${this.kept}`);
  }

  #lengthen(): void {
    const longer = this.length + oneOf(this.#random, [1, 511, 65536, 2 ** 30, 2 ** 40, 2 ** 52]);
    // Of a longer file no image is opened.
    this.length = Math.min(longer, 2 ** 53 - 512);
    this.steps.push(`lengthened to ${this.length}`);
  }
}
