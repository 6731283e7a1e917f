/**
 * Whether the log that a killed daemon has left beside its store lost anything by damage ("Database File Format", section 4). SQLite ends
 * its reading of a log at the first frame whose sum is wrong, without a word, as it must: power that fails leaves the last transaction torn.
 * But of transactions before the last each was flushed before the next began, so when more than one ends behind such a frame it was not
 * power that did it.
 */
import { existsSync, readFileSync } from "node:fs";
import { wrapSystemError } from "../errors/index.ts";

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
/** The lowest bit says in which order the bytes of a word are summed. */
const MAGIC = 0x377f0682;
const NO_SUM: Sum = [0, 0];

type Sum = readonly [number, number];

/** @returns how many transactions are lost at least */
export function lostInLog(path: string): number {
  const log = `${path}-wal`;
  if (!existsSync(log)) return 0;
  let bytes: Buffer;
  try {
    bytes = readFileSync(log);
  } catch (error) {
    throw wrapSystemError(error, log, "read");
  }
  if (bytes.length < HEADER_BYTES) return 0;
  const frames = framesOf(bytes);
  const isBroken = (bytes.readUInt32BE(0) & ~1) >>> 0 !== MAGIC || !isSum(bytes, 24, sumOf(bytes, 0, 24, NO_SUM));
  const first = isBroken ? 0 : firstWrong(bytes, frames);
  // Those of an earlier log, which lie behind the end of this one, have other numbers.
  const number = (at: number): string => bytes.toString("hex", at, at + 8);
  const own = isBroken ? undefined : number(16);
  const ends = frames.slice(first).filter((at) => bytes.readUInt32BE(at + 4) !== 0);
  const lost = ends.filter((at) => number(at + 8) === (own ?? number((ends[0] ?? 0) + 8))).length;
  return lost > 1 ? lost : 0;
}

/** Where each frame begins that is there as a whole. */
function framesOf(bytes: Buffer): number[] {
  const frame = FRAME_HEADER_BYTES + pageSize(bytes);
  const count = Math.floor((bytes.length - HEADER_BYTES) / frame);
  return Array.from({ length: count }, (_, index) => HEADER_BYTES + index * frame);
}

/** Our pages have SQLite's own size, whatever a damaged header says. */
function pageSize(bytes: Buffer): number {
  const said = bytes.readUInt32BE(8);
  return said >= 512 && said <= 65_536 && (said & (said - 1)) === 0 ? said : 4096;
}

/** Index of the first frame that SQLite does not believe. */
function firstWrong(bytes: Buffer, frames: readonly number[]): number {
  const page = pageSize(bytes);
  let sum: Sum = [bytes.readUInt32BE(24), bytes.readUInt32BE(28)];
  for (const [index, at] of frames.entries()) {
    sum = sumOf(bytes, at, at + 8, sum);
    sum = sumOf(bytes, at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + page, sum);
    if (!bytes.subarray(at + 8, at + 16).equals(bytes.subarray(16, 24)) || !isSum(bytes, at + 16, sum)) return index;
  }
  return frames.length;
}

/** Section 4.2, "Checksum Algorithm". */
function sumOf(bytes: Buffer, start: number, end: number, [first, second]: Sum): Sum {
  const little = (bytes.readUInt32BE(0) & 1) === 0;
  let [a, b] = [first, second];
  for (let at = start; at < end; at += 8) {
    a = (a + (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at)) + b) >>> 0;
    b = (b + (little ? bytes.readUInt32LE(at + 4) : bytes.readUInt32BE(at + 4)) + a) >>> 0;
  }
  return [a, b];
}

function isSum(bytes: Buffer, at: number, [a, b]: Sum): boolean {
  return bytes.readUInt32BE(at) === a && bytes.readUInt32BE(at + 4) === b;
}
