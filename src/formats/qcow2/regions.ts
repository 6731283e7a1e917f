/** Ranges of an image file that belong to one structure each, and whether two of them overlap. Pure. */

export interface Region {
  /** What it is, for messages: "L1 table". */
  readonly what: string;
  readonly offset: number;
  readonly length: number;
}

/**
 * Finds two regions that share a cluster.
 *
 * @returns a clause that names both; undefined when none do
 */
export function findOverlap(regions: readonly Region[], clusterSize: number): string | undefined {
  const sorted = regions.filter(({ length }) => length > 0).sort((a, b) => a.offset - b.offset);
  let furthest: Region | undefined;
  for (const region of sorted) {
    if (furthest !== undefined && region.offset < clusterEnd(furthest, clusterSize)) {
      return `its ${region.what} ${place(region)} overlaps its ${furthest.what} ${place(furthest)}`;
    }
    furthest = region;
  }
  return undefined;
}

function clusterEnd({ offset, length }: Region, clusterSize: number): number {
  return Math.ceil((offset + length) / clusterSize) * clusterSize;
}

function place({ offset, length }: Region): string {
  return `(${length} bytes at ${offset})`;
}
