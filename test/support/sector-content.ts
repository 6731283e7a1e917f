/**
 * Sectors whose bytes say what they are: a number that tells which write they come from, and which sector they were written
 * to, over and over. So a read shows what each sector holds, and a sector that is torn, moved or mixed shows itself.
 *
 * 0 is a sector of zeroes. Numbers from `BASE` on are the content of a backing file.
 */
import { SECTOR } from "./file-bytes.ts";

const WORDS = SECTOR / 4;
/** The content of sector s of a backing file is BASE + s. */
export const BASE = 0x80000000;

/** `count` sectors from sector `first` on, all written by `value`. */
export function sectorsOf(value: number, first: number, count: number): Uint8Array {
  return fillSectors(first, count, () => value);
}

/** The same with a value for each. */
export function fillSectors(first: number, count: number, valueAt: (sector: number) => number): Uint8Array {
  const words = new Uint32Array(count * WORDS);
  for (let i = 0; i < count; i++) {
    const value = valueAt(first + i);
    if (value === 0) continue;
    for (let word = i * WORDS; word < (i + 1) * WORDS; word += 2) {
      words[word] = value;
      words[word + 1] = first + i;
    }
  }
  return new Uint8Array(words.buffer);
}

/** What a sector holds that nobody wrote like that: torn, or in the wrong place. */
export const DAMAGED = 0xffffffff;

/** Values, sector by sector. */
export type Content = Uint32Array;

/** The value of each sector, or `DAMAGED`. */
export function readSectors(bytes: Uint8Array, first: number): Content {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const found = new Uint32Array(bytes.length / SECTOR);
  for (let index = 0; index < found.length; index++) {
    const at = index * SECTOR;
    const value = words[at / 4] as number;
    const place = words[at / 4 + 1];
    // A sector that equals itself shifted by eight bytes says the same throughout.
    const even = Buffer.compare(bytes.subarray(at, at + SECTOR - 8), bytes.subarray(at + 8, at + SECTOR)) === 0;
    found[index] = even && place === (value === 0 ? 0 : first + index) ? value : DAMAGED;
  }
  return found;
}

/** Says what is wrong with a sector. */
export function describeDamage(bytes: Uint8Array): string {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, WORDS);
  const said: string[] = [];
  for (let word = 0; word < WORDS; word += 2) {
    const part = `${valueName(words[word] as number)} of sector ${words[word + 1]}`;
    if (said.at(-1) !== part) said.push(part);
  }
  return said.slice(0, 4).join(", then ");
}

/** For messages. */
export function valueName(value: number): string {
  if (value === 0) return "zeroes";
  return value >= BASE ? `base sector ${value - BASE}` : `write ${value}`;
}
