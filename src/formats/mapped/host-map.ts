/**
 * Where an image keeps its metadata, so that no data is ever written there: an image whose mapping points at its own tables
 * would otherwise destroy itself with the first guest write.
 *
 * The tables found at open are kept as a sorted array of offsets (8 bytes each), those made since in a set.
 */
import { StreamdiskError } from "../../errors/index.ts";
import type { MappingCodec } from "./codec.ts";

/** Host offsets of all tables that an L1 table refers to; invalid entries are left out. */
export function tableOffsets(codec: MappingCodec, l1: Uint8Array): Float64Array {
  const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  const entry = { host: 0, owned: false };
  const offsets = new Float64Array(l1.length / 8);
  let count = 0;
  for (let index = 0; index < offsets.length; index++) {
    // Whoever needs a table whose entry is invalid is told.
    if (codec.tryDecodeL1(view, index, entry) && entry.host !== 0) offsets[count++] = entry.host;
  }
  return offsets.slice(0, count);
}

/** More tables that an L1 table names twice than any accident leaves. */
const MOST_REPEATS = 1024;

/**
 * Refuses an L1 table that names the same tables over and over: a file of some megabytes would have a map of petabytes, and nobody
 * would live to see the end of it.
 *
 * @param offsets as `tableOffsets` found them
 * @throws {StreamdiskError} `invalid-image`
 */
export function refuseRepeats(offsets: Float64Array, name: string): void {
  const sorted = offsets.slice().sort();
  let repeats = 0;
  for (let i = 1; i < sorted.length; i++) if (sorted[i] === sorted[i - 1]) repeats++;
  if (repeats <= MOST_REPEATS) return;
  throw new StreamdiskError(
    "invalid-image",
    `Image '${name}' is damaged: ${repeats} of the ${offsets.length} tables that its L1 table names are named before`,
    { node: name, operation: "open" },
  );
}

export class HostMap {
  readonly #clusterSize: number;
  readonly #fixed = new Map<string, { start: number; end: number }>();
  readonly #known: Float64Array;
  readonly #knownBytes: number;
  readonly #added = new Map<number, number>();

  /**
   * @param offsets host offsets of tables, each `bytes` long, in any order
   */
  constructor(clusterSize: number, offsets: Float64Array, bytes: number) {
    this.#clusterSize = clusterSize;
    this.#known = offsets.sort();
    this.#knownBytes = bytes;
  }

  /** Sets or moves a named area: the header, the L1 table. */
  setArea(name: string, start: number, length: number): void {
    if (length > 0) this.#fixed.set(name, { start, end: start + length });
  }

  addTable(host: number, bytes: number): void {
    for (let at = host; at < host + bytes; at += this.#clusterSize) this.#added.set(at, this.#clusterSize);
  }

  /** What else lies where a table that was found at open lies, as `hit` says it. */
  besideTable(host: number): string | undefined {
    const end = host + this.#knownBytes;
    const area = this.#hitsArea(host, end);
    if (area !== undefined) return area;
    const second = this.#firstKnown(host) + 1;
    return second < this.#known.length && (this.#known[second] as number) < end ? "another table" : undefined;
  }

  /** What metadata [start, end) would hit: a name for a message, or undefined. */
  hit(start: number, end: number): string | undefined {
    const area = this.#hitsArea(start, end);
    if (area !== undefined) return area;
    const first = this.#firstKnown(start);
    if (first < this.#known.length && (this.#known[first] as number) < end) return "a table";
    if (this.#added.size > 0) {
      for (let at = start - (start % this.#clusterSize); at < end; at += this.#clusterSize) {
        if (this.#added.has(at)) return "a table";
      }
    }
    return undefined;
  }

  #hitsArea(start: number, end: number): string | undefined {
    for (const [name, area] of this.#fixed) {
      if (area.start < end && start < area.end) return name;
    }
    return undefined;
  }

  /** Index of the first table that ends behind `start`. */
  #firstKnown(start: number): number {
    let low = 0;
    let high = this.#known.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#known[middle] as number) + this.#knownBytes <= start) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
