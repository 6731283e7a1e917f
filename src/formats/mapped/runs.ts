/**
 * Runs: the longest stretches of guest bytes that can be treated alike, within one slice of an L2 table. Everything that walks the
 * mapping (reads, extents) does it through `findRun`, synchronously, on a slice that is in memory.
 */
import type { ClusterEntry, MappingCodec } from "./codec.ts";
import type { Geometry } from "./geometry.ts";
import type { L2Slice } from "./tables.ts";

export const MISSING = 0;
export const ZERO = 1;
export const DATA = 2;
export const COMPRESSED = 3;
export type RunKind = typeof MISSING | typeof ZERO | typeof DATA | typeof COMPRESSED;

/** Reused from call to call. */
export interface Run {
  kind: RunKind;
  length: number;
  /** DATA, and ZERO that keeps space (else 0): host offset of the first byte. COMPRESSED: of the first compressed byte. */
  host: number;
  /** COMPRESSED: upper bound of the compressed bytes. */
  compressedLength: number;
}

export function newEntry(): ClusterEntry {
  return { host: 0, compressedLength: 0, owned: false, data: 0, zero: 0 };
}

export function newRun(): Run {
  return { kind: MISSING, length: 0, host: 0, compressedLength: 0 };
}

/** The kind of part `part` of a decoded cluster. */
export function partKind(entry: ClusterEntry, part: number): RunKind {
  const bit = 2 ** part;
  if ((entry.data & bit) !== 0) return entry.compressedLength > 0 ? COMPRESSED : DATA;
  return (entry.zero & bit) !== 0 ? ZERO : MISSING;
}

export class RunFinder {
  readonly #codec: MappingCodec;
  readonly #geometry: Geometry;
  readonly #entry = newEntry();

  constructor(codec: MappingCodec, geometry: Geometry) {
    this.#codec = codec;
    this.#geometry = geometry;
  }

  /**
   * Describes the run that starts at guest offset `offset`, up to `end` and to the end of the slice. A null slice means that all
   * of it is missing. A compressed run never goes beyond its cluster.
   */
  find(slice: L2Slice | null, offset: number, end: number, run: Run): void {
    const { clusterSize, grain, sliceSpan, subclusters } = this.#geometry;
    const spanStart = Math.floor(offset / sliceSpan) * sliceSpan;
    const limit = Math.min(end, spanStart + sliceSpan);
    run.host = 0;
    run.compressedLength = 0;
    if (slice === null) {
      run.kind = MISSING;
      run.length = limit - offset;
      return;
    }
    const { entryBytes } = this.#codec;
    const entry = this.#entry;
    let position = offset;
    let kind: RunKind | undefined;
    while (position < limit) {
      const index = Math.floor((position - spanStart) / clusterSize);
      const clusterStart = spanStart + index * clusterSize;
      if (kind === MISSING) {
        // In every format an entry of zero bytes is a missing cluster, and of those there may be a great many.
        const last = Math.ceil((limit - spanStart) / clusterSize);
        const next = Math.floor(slice.skipZeroes(index * entryBytes, last * entryBytes) / entryBytes);
        position = Math.min(limit, spanStart + next * clusterSize);
        if (next > index) continue;
      }
      this.#codec.decode(slice.view, index, entry);
      let part = Math.floor((position - clusterStart) / grain);
      while (part < subclusters && position < limit) {
        const partOf = partKind(entry, part);
        if (kind === undefined) {
          kind = partOf;
          run.kind = kind;
          if (kind === DATA || kind === ZERO) run.host = entry.host && entry.host + (position - clusterStart);
          else if (kind === COMPRESSED) {
            run.host = entry.host;
            run.compressedLength = entry.compressedLength;
            run.length = Math.min(limit, clusterStart + clusterSize) - offset;
            return;
          }
        } else if (
          partOf !== kind ||
          (kind !== MISSING && !touches(run, position - offset, entry.host, part * grain))
        ) {
          run.length = position - offset;
          return;
        }
        part++;
        position = Math.min(limit, clusterStart + part * grain);
      }
    }
    run.length = position - offset;
  }
}

/** Whether the place in the file goes on from that of the run, or both have none. */
function touches(run: Run, length: number, host: number, within: number): boolean {
  return run.host === 0 ? host === 0 : host !== 0 && run.host + length === host + within;
}
