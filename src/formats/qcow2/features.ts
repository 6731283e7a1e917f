/**
 * Feature bits of qcow2 version 3 and their names (QEMU docs/interop/qcow2, "Header" and "Feature name table"). Pure.
 *
 * *Incompatible* bits say what a reader must understand, *compatible* ones what it may ignore, *autoclear* ones what a writer that
 * does not maintain it must clear before it changes anything else.
 */
import { viewOf } from "./big-endian.ts";

/** The three words of a header. Version 2 has none of them: all zero. */
export interface FeatureWords {
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
}

export const INCOMPATIBLE = { dirty: 1n, corrupt: 2n, dataFile: 4n, compression: 8n, extendedL2: 16n } as const;
export const COMPATIBLE = { lazyRefcounts: 1n } as const;
export const AUTOCLEAR = {
  bitmaps: 1n,
  rawDataFile: 2n,
  /** Ours, and no one else's: a log of mappings may speak of this image (ADR 1). Any other program that writes clears it. */
  streamdiskLog: 2n ** 63n,
} as const;

export const KNOWN_INCOMPATIBLE = Object.values(INCOMPATIBLE).reduce((all, bit) => all | bit, 0n);

/** Type (0 incompatible, 1 compatible, 2 autoclear), bit, and the name that QEMU gives it. */
const NAMES: readonly (readonly [type: number, bit: number, name: string])[] = [
  [0, 0, "dirty bit"],
  [0, 1, "corrupt bit"],
  [0, 2, "external data file"],
  [0, 3, "compression type"],
  [0, 4, "extended L2 entries"],
  [1, 0, "lazy refcounts"],
  [2, 0, "bitmaps"],
  [2, 1, "raw external data"],
];

const ENTRY_BYTES = 48;
const NAME_BYTES = 46;

/** The feature name table that a new image gets: it tells programs older than a feature what they miss. */
export function featureNameTable(): Uint8Array {
  const table = new Uint8Array(NAMES.length * ENTRY_BYTES);
  NAMES.forEach(([type, bit, name], index) => {
    table.set([type, bit], index * ENTRY_BYTES);
    table.set(new TextEncoder().encode(name), index * ENTRY_BYTES + 2);
  });
  return table;
}

/**
 * Names incompatible features: by the image's own table where it has them, and by their bits.
 *
 * @param table data of the image's feature name table, if it has one
 */
export function nameIncompatible(bits: bigint, table: Uint8Array | undefined): string {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((bits >> BigInt(bit)) & 1n) === 0n) continue;
    const name = table === undefined ? undefined : nameInTable(table, bit);
    names.push(name === undefined ? `bit ${bit}` : `bit ${bit} ('${name}')`);
  }
  return names.join(", ");
}

function nameInTable(table: Uint8Array, bit: number): string | undefined {
  const view = viewOf(table);
  for (let at = 0; at + ENTRY_BYTES <= table.length; at += ENTRY_BYTES) {
    if (view.getUint8(at) !== 0 || view.getUint8(at + 1) !== bit) continue;
    const field = table.subarray(at + 2, at + 2 + NAME_BYTES);
    const end = field.indexOf(0);
    const name = new TextDecoder()
      .decode(end < 0 ? field : field.subarray(0, end))
      .replace(/[^\p{L}\p{N}\p{P} ]/gu, "?");
    if (name !== "") return name;
  }
  return undefined;
}
