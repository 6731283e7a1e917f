/**
 * Looks for free clusters by the reference counts, and changes nothing.
 *
 * A region without a block is free as far as the counts go. Yet what the file has there already may be somebody's, in an image whose
 * counts are damaged: it is passed over, as is all that a device has not (a device has a length and no end of use).
 *
 * A run is found first, and only then places for the blocks that it needs, behind it: a block in the midst of each region would
 * leave no run longer than a region.
 */
import type { RefcountBlock } from "./refcount-block.ts";

/** The counts, as far as the search needs them. */
export interface CountedClusters {
  /** Clusters that a block counts. */
  readonly perBlock: number;
  /** Regions that the refcount table can speak of. */
  readonly regions: number;
  /** One past the last cluster that may be in use without being counted. */
  readonly unknownEnd: number;
  hasBlock(region: number): boolean;
  /** The block of a region that has one. */
  block(region: number): RefcountBlock | Promise<RefcountBlock>;
}

export interface FreeRun {
  readonly start: number;
  readonly count: number;
  /** No free cluster lies below, when the run is taken. */
  readonly hint: number;
}

/** Finds between `least` and `most` free clusters next to each other, from cluster `hint` on. */
export async function findRun(counts: CountedClusters, hint: number, least: number, most: number): Promise<FreeRun> {
  let start = hint;
  let count = 0;
  let skipped: number | undefined;
  while (count < most) {
    const cluster = start + count;
    let next: number;
    try {
      const looked = nextFree(counts, cluster);
      next = typeof looked === "number" ? looked : await looked;
    } catch (error) {
      // What was found will do; whoever comes next meets the damage.
      if (count < least) throw error;
      break;
    }
    if (next === cluster) {
      count++;
      continue;
    }
    if (count >= least) break;
    if (count > 0) skipped ??= start;
    start = next;
    count = 0;
  }
  return { start, count, hint: skipped ?? start + count };
}

/**
 * Finds a place for the block of each region, from cluster `from` on; for those of the places that lie in regions without a block, too.
 *
 * @returns regions and the clusters of their blocks
 */
export async function placeBlocks(
  counts: CountedClusters,
  regions: Iterable<number>,
  from: number,
): Promise<Map<number, number>> {
  const places = new Map<number, number>();
  const waiting = new Set(regions);
  let cluster = from;
  for (const region of waiting) {
    for (let next = -1; next !== cluster; ) {
      if (next >= 0) cluster = next;
      next = await nextFree(counts, cluster);
    }
    places.set(region, cluster);
    const there = Math.floor(cluster / counts.perBlock);
    // A set takes in what is added while it is walked through.
    if (!counts.hasBlock(there)) waiting.add(there);
    cluster++;
  }
  return places;
}

/** The cluster itself when it is free; otherwise one behind it, from which to look on. */
function nextFree(counts: CountedClusters, cluster: number): number | Promise<number> {
  const { perBlock, regions, unknownEnd } = counts;
  const region = Math.floor(cluster / perBlock);
  if (!counts.hasBlock(region)) {
    if (cluster >= unknownEnd) return cluster;
    return region >= regions ? unknownEnd : Math.min(unknownEnd, (region + 1) * perBlock);
  }
  const block = counts.block(region);
  return block instanceof Promise ? nextFreeIn(block, cluster, perBlock) : passIfUsed(block, cluster, perBlock);
}

async function nextFreeIn(block: Promise<RefcountBlock>, cluster: number, perBlock: number): Promise<number> {
  return passIfUsed(await block, cluster, perBlock);
}

function passIfUsed(block: RefcountBlock, cluster: number, perBlock: number): number {
  return block.get(cluster % perBlock) === 0 ? cluster : cluster + 1;
}
