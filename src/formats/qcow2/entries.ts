/**
 * qcow2's table entries (QEMU docs/interop/qcow2, "Cluster mapping" and "Extended L2 Entries"): 64-bit big-endian words, with
 * extended L2 two of them. Pure.
 *
 * An entry is taken apart as two 32-bit halves; every offset is aligned to a cluster, at most 2 MiB, so that its alignment and all
 * its low flags lie in the lower half. What the specification reserves must be zero: a damaged entry is
 * refused rather than followed.
 */
import type { StreamdiskError } from "../../errors/index.ts";
import type { ClusterEntry, MappingCodec, TableEntry } from "../mapped/codec.ts";
import { invalidImage } from "./refusals.ts";

const HIGH = 2 ** 32;
const COPIED = 0x80000000;
const COMPRESSED = 0x40000000;
const ZERO = 1;
/** Upper half of an L1 entry: reserved bits, and offsets from 2^53 on, past the end of any file. */
const L1_REFUSED = 0x7fe00000;
const L2_REFUSED = 0x3fe00000;
const OFFSET_HIGH = 0x001fffff;
const ALL_PARTS = 0xffffffff;
const SECTOR = 512;

export interface EntryShape {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly extendedL2: boolean;
  /** How messages call the image. */
  readonly name: string;
}

/** The codec of one image. */
export function qcow2Codec({ version, clusterBits, extendedL2, name }: EntryShape): MappingCodec {
  const entryBytes = extendedL2 ? 16 : 8;
  const clusterSize = 2 ** clusterBits;
  const alignment = clusterSize - 1;
  /** A cluster can say "zero" in bit 0 of its word; with extended L2 its parts do. */
  const zeroBit = version === 3 && !extendedL2 ? ZERO : 0;
  const lowRefused = alignment & ~zeroBit;
  const whole = extendedL2 ? ALL_PARTS : 1;
  /** Compressed: where the number of sectors begins in the upper half; the offset lies below. */
  const sectorsShift = 62 - (clusterBits - 8) - 32;
  const offsetMask = 2 ** sectorsShift - 1;

  function decodeL1(table: DataView, index: number, into: TableEntry): void {
    if (!tryDecodeL1(table, index, into)) throw bad(table, index, "L1", 8);
  }

  function tryDecodeL1(table: DataView, index: number, into: TableEntry): boolean {
    const high = table.getUint32(index * 8);
    const low = table.getUint32(index * 8 + 4);
    into.host = (high & OFFSET_HIGH) * HIGH + low;
    into.owned = high >= COPIED;
    return (high & L1_REFUSED) === 0 && (low & alignment) === 0 && (!into.owned || into.host !== 0);
  }

  function encodeL1(table: DataView, index: number, { host, owned }: TableEntry): void {
    putWord(table, index * 8, host, owned, 0);
  }

  function decode(table: DataView, index: number, into: ClusterEntry): void {
    if (!tryDecode(table, index, into)) throw bad(table, index, "L2", entryBytes);
  }

  function tryDecode(table: DataView, index: number, into: ClusterEntry): boolean {
    const at = index * entryBytes;
    const high = table.getUint32(at);
    const low = table.getUint32(at + 4);
    if ((high & COMPRESSED) !== 0) return tryDecodeCompressed(table, index, into, high, low);
    const zero = (low & zeroBit) !== 0;
    into.host = (high & OFFSET_HIGH) * HIGH + (zero ? low - ZERO : low);
    into.compressedLength = 0;
    into.owned = high >= COPIED;
    if ((high & L2_REFUSED) !== 0 || (low & lowRefused) !== 0 || (into.owned && into.host === 0)) return false;
    if (!extendedL2) {
      into.zero = zero ? 1 : 0;
      into.data = zero || into.host === 0 ? 0 : 1;
      return true;
    }
    into.zero = table.getUint32(at + 8);
    into.data = table.getUint32(at + 12);
    return (into.zero & into.data) === 0 && (into.data === 0 || into.host !== 0);
  }

  /** Never owned: several compressed clusters share a host cluster, and none is written in place. */
  function tryDecodeCompressed(table: DataView, index: number, into: ClusterEntry, high: number, low: number): boolean {
    const offsetHigh = high & offsetMask;
    const sectors = (high & (COMPRESSED - 1)) >>> sectorsShift;
    into.host = offsetHigh * HIGH + low;
    into.compressedLength = sectors * SECTOR + (SECTOR - (low & (SECTOR - 1)));
    into.owned = false;
    into.data = whole;
    into.zero = 0;
    const parts = extendedL2 ? table.getUint32(index * 16 + 8) | table.getUint32(index * 16 + 12) : 0;
    return offsetHigh <= OFFSET_HIGH && into.host >= clusterSize && parts === 0;
  }

  function encode(table: DataView, index: number, entry: ClusterEntry): void {
    const at = index * entryBytes;
    putWord(table, at, entry.host, entry.owned, entry.zero !== 0 ? zeroBit : 0);
    if (!extendedL2) return;
    table.setUint32(at + 8, entry.zero);
    table.setUint32(at + 12, entry.data);
  }

  function bad(table: DataView, index: number, what: string, bytes: 8 | 16): StreamdiskError {
    const words = [];
    for (let at = index * bytes; at < (index + 1) * bytes; at += 8)
      words.push(`0x${table.getBigUint64(at).toString(16)}`);
    const why = `its ${what} entry ${index} is ${words.join(" ")}, which cannot be with clusters of ${clusterSize} bytes`;
    return invalidImage(name, `${why}; run check`);
  }

  return {
    entryBytes,
    subclusters: extendedL2 ? 32 : 1,
    hasZero: version === 3,
    zeroKeepsSpace: version === 3,
    decodeL1,
    tryDecodeL1,
    encodeL1,
    decode,
    tryDecode,
    encode,
  };
}

function putWord(table: DataView, at: number, host: number, owned: boolean, flags: number): void {
  table.setUint32(at, (Math.floor(host / HIGH) | (owned ? COPIED : 0)) >>> 0);
  table.setUint32(at + 4, ((host >>> 0) | flags) >>> 0);
}
