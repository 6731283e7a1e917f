/**
 * Plans where the bytes of a write go, cluster by cluster, within one slice of an L2 table.
 *
 * A cluster is treated in one of four ways:
 * - *skip*: a populate finds nothing missing in it.
 * - *keep*: it has space of its own that nobody shares; the parts touched are written there. Parts that were missing or zero
 *   become data afterwards.
 * - *fresh*: it has no space and no data: a new cluster takes the parts touched.
 * - *copy*: its data is shared with a snapshot, or compressed: a new cluster takes it, and the parts touched.
 */
import type { ClusterEntry, MappingCodec } from "./codec.ts";
import { type Geometry, partMask, roundDown, roundUp } from "./geometry.ts";
import { newEntry } from "./runs.ts";
import type { L2Slice } from "./tables.ts";

export interface ClusterPlan {
  /** Index in the slice. */
  readonly index: number;
  /** Guest offset of the cluster. */
  readonly start: number;
  readonly way: "keep" | "fresh" | "copy";
  /** Host offset of the cluster's space; set by the writer for fresh and copy. */
  host: number;
  /** Parts that are data in the cluster's space afterwards because of this write. */
  readonly mask: number;
  /** Those of them that were data before, elsewhere. */
  readonly copied: number;
  /** Whether nothing but data of the write itself is changed: the mapping stays as it is. */
  readonly mapped: boolean;
  /** What the cluster referred to before, to be given back: length 0 when nothing. */
  readonly oldHost: number;
  readonly oldLength: number;
}

export interface PlanRange {
  readonly slice: L2Slice | null;
  /** Guest bytes, inside the span of the slice. */
  readonly start: number;
  readonly end: number;
  /** Populate: only parts that are missing. */
  readonly onlyMissing: boolean;
}

const NOTHING: Readonly<ClusterEntry> = newEntry();

export class Planner {
  readonly #codec: MappingCodec;
  readonly #geometry: Geometry;
  readonly #entry = newEntry();

  constructor(codec: MappingCodec, geometry: Geometry) {
    this.#codec = codec;
    this.#geometry = geometry;
  }

  /** Plans every cluster that the range touches, in order; skipped ones are left out. */
  plan(range: PlanRange): ClusterPlan[] {
    const { clusterSize, sliceEntries } = this.#geometry;
    const plans: ClusterPlan[] = [];
    let start = roundDown(range.start, clusterSize);
    for (; start < range.end; start += clusterSize) {
      const index = (start / clusterSize) % sliceEntries;
      if (range.slice === null) Object.assign(this.#entry, NOTHING);
      else this.#codec.decode(range.slice.view, index, this.#entry);
      const plan = this.#planCluster(start, index, range);
      if (plan !== undefined) plans.push(plan);
    }
    return plans;
  }

  #planCluster(start: number, index: number, range: PlanRange): ClusterPlan | undefined {
    const { clusterSize, grain } = this.#geometry;
    const entry = this.#entry;
    const from = Math.max(0, range.start - start);
    const to = Math.min(clusterSize, range.end - start);
    const touched = partMask(roundDown(from, grain) / grain, roundUp(to, grain) / grain);
    const mask = range.onlyMissing ? (touched & ~(entry.data | entry.zero)) >>> 0 : touched;
    if (mask === 0) return undefined;
    const oldLength = entry.host === 0 ? 0 : entry.compressedLength || clusterSize;
    if (entry.host !== 0 && entry.owned && entry.compressedLength === 0) {
      const mapped = (entry.data & mask) >>> 0 === mask;
      return { index, start, way: "keep", host: entry.host, mask, copied: 0, mapped, oldHost: 0, oldLength: 0 };
    }
    return {
      index,
      start,
      way: entry.data === 0 ? "fresh" : "copy",
      host: 0,
      mask: (mask | entry.data) >>> 0,
      copied: entry.data,
      mapped: false,
      oldHost: entry.host,
      oldLength,
    };
  }
}

/** A run of set bits in a mask: parts [from, to). */
export function* maskRuns(mask: number): Generator<{ from: number; to: number }, void, undefined> {
  let part = 0;
  while (part < 32) {
    if ((mask & (2 ** part)) === 0) {
      part++;
      continue;
    }
    const from = part;
    while (part < 32 && (mask & (2 ** part)) !== 0) part++;
    yield { from, to: part };
  }
}
