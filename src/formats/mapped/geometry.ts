/** The sizes that follow from a header, all in bytes unless they say otherwise. */
export interface Geometry {
  readonly clusterSize: number;
  /** Size of an L2 table. */
  readonly tableBytes: number;
  /** Clusters that one L2 table speaks of. */
  readonly tableEntries: number;
  /** Guest bytes that one L2 table speaks of. */
  readonly tableSpan: number;
  readonly subclusters: 1 | 32;
  /** The least that can be allocated: a cluster or a subcluster. */
  readonly grain: number;
}

export function geometry(clusterSize: number, tableBytes: number, entryBytes: number, subclusters: 1 | 32): Geometry {
  const tableEntries = tableBytes / entryBytes;
  return {
    clusterSize,
    tableBytes,
    tableEntries,
    tableSpan: tableEntries * clusterSize,
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
