/** The sizes that follow from a header, all in bytes unless they say otherwise. */
export interface Geometry {
  readonly clusterSize: number;
  /** Size of an L2 table. */
  readonly tableBytes: number;
  /** Clusters that one L2 table speaks of. */
  readonly tableEntries: number;
  /** Guest bytes that one L2 table speaks of. */
  readonly tableSpan: number;
  /** Size of a slice: as much of an L2 table as is loaded at once. */
  readonly sliceBytes: number;
  /** Clusters that a slice speaks of. */
  readonly sliceEntries: number;
  /** Guest bytes that a slice speaks of. */
  readonly sliceSpan: number;
  readonly subclusters: 1 | 32;
  /** The least that can be allocated: a cluster or a subcluster. */
  readonly grain: number;
}

/** A table can have a gigabyte (QED): memory is taken for the part in use. */
const MOST_SLICE_BYTES = 64 * 1024;

export function geometry(clusterSize: number, tableBytes: number, entryBytes: number, subclusters: 1 | 32): Geometry {
  const sliceBytes = Math.min(tableBytes, MOST_SLICE_BYTES);
  return {
    clusterSize,
    tableBytes,
    tableEntries: tableBytes / entryBytes,
    tableSpan: (tableBytes / entryBytes) * clusterSize,
    sliceBytes,
    sliceEntries: sliceBytes / entryBytes,
    sliceSpan: (sliceBytes / entryBytes) * clusterSize,
    subclusters,
    grain: clusterSize / subclusters,
  };
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

export function roundDown(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}

/** The mask of the parts [from, to) of a cluster: bit s speaks of part s. */
export function partMask(from: number, to: number): number {
  const upTo = to >= 32 ? 0xffffffff : 2 ** to - 1;
  return (upTo - (2 ** from - 1)) >>> 0;
}

export function bitCount(mask: number): number {
  let bits = 0;
  for (let rest = mask; rest !== 0; rest = (rest & (rest - 1)) >>> 0) bits++;
  return bits;
}
