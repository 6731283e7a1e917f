/**
 * Reads through the mapping. A run is looked up under no lock: what it says is true at that moment, and the space that it points at
 * is not reused before the request has ended (`Checkpoints.activity`). A read that races a write sees either.
 */
import { type BlockNode, type Extent, letGo } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { MappingCodec } from "./codec.ts";
import { type Geometry, roundDown } from "./geometry.ts";
import { COMPRESSED, DATA, MISSING, newRun, RunFinder, ZERO } from "./runs.ts";
import type { L2Slice, MappingTables } from "./tables.ts";

/** So many extents a call at the most, and so many slices read for them. */
const MOST_EXTENTS = 4096;
const MOST_LOADS = 256;

/** Expands one compressed cluster to exactly `clusterSize` bytes. */
export type Decompress = (compressed: Uint8Array, guestOffset: number) => Promise<Uint8Array>;

export interface ReaderOptions {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  /** The layer below; undefined where the image stands alone. */
  readonly backing: () => BlockNode | undefined;
  /** The header names a backing file, opened or not. */
  readonly hasBacking: () => boolean;
  readonly decompress: Decompress | undefined;
}

export class MappedReader {
  readonly #options: ReaderOptions;
  readonly #runs: RunFinder;
  readonly #run = newRun();

  constructor(options: ReaderOptions) {
    this.#options = options;
    this.#runs = new RunFinder(options.codec, options.geometry);
  }

  #slice(offset: number): L2Slice | null | undefined {
    return this.#options.tables.peek(Math.floor(offset / this.#options.geometry.sliceSpan));
  }

  #load(offset: number): Promise<L2Slice | null> {
    return this.#options.tables.load(Math.floor(offset / this.#options.geometry.sliceSpan));
  }

  /** Fills `target`. The range must lie inside what the L1 table can speak of. */
  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const end = offset + target.length;
    const run = this.#run;
    let first: Promise<void> | undefined;
    let rest: Promise<void>[] | undefined;
    let position = offset;
    try {
      while (position < end) {
        let slice = this.#slice(position);
        if (slice === undefined) {
          const loading = this.#load(position);
          if (first !== undefined) await allDone([loading, ...(rest ?? [first])]);
          slice = await loading;
        }
        this.#runs.find(slice, position, end, run);
        const part = target.subarray(position - offset, position - offset + run.length);
        const doing = this.#readRun(position, part, signal);
        if (doing !== undefined) {
          if (first === undefined) first = doing;
          else if (rest === undefined) rest = [first, doing];
          else rest.push(doing);
        }
        position += part.length;
      }
    } catch (error) {
      // A table or an entry is damaged: the reads that were started before must not be left alone.
      if (first !== undefined) await Promise.allSettled(rest ?? [first]);
      throw error;
    }
    if (rest !== undefined) await allDone(rest);
    else if (first !== undefined) await first;
  }

  /** Fills `target` when the tables are in memory, and its bytes are zero or in the page cache. Never looks below. */
  readNow(offset: number, target: Uint8Array): boolean {
    const { file, hasBacking } = this.#options;
    if (file.readNow === undefined) return false;
    const end = offset + target.length;
    const run = this.#run;
    let position = offset;
    while (position < end) {
      const slice = this.#slice(position);
      if (slice === undefined || !this.#found(slice, position, end)) return false;
      const { kind, host, length } = run;
      const part = length === target.length ? target : target.subarray(position - offset, position - offset + length);
      if (kind === ZERO || (kind === MISSING && !hasBacking())) part.fill(0);
      else if (kind !== DATA || !file.readNow(host, part)) return false;
      position += length;
    }
    return true;
  }

  #found(slice: L2Slice | null, offset: number, end: number): boolean {
    try {
      this.#runs.find(slice, offset, end, this.#run);
      return true;
    } catch {
      // A damaged entry: `read` says which.
      return false;
    }
  }

  /** Starts to read the run that `#run` describes; undefined when it is done already. */
  #readRun(offset: number, part: Uint8Array, signal: AbortSignal | undefined): Promise<void> | undefined {
    const { kind, host, compressedLength } = this.#run;
    if (kind === ZERO) {
      part.fill(0);
      return undefined;
    }
    if (kind === MISSING) return this.readBelow(offset, part, signal);
    if (kind === DATA) return this.#readData(host, part, signal);
    return this.#readCompressed(offset, part, host, compressedLength);
  }

  /** What the layer below says of a range: zeroes past its end, or when there is none. */
  readBelow(offset: number, part: Uint8Array, signal?: AbortSignal): Promise<void> | undefined {
    const { backing, hasBacking, file } = this.#options;
    const below = backing();
    if (below === undefined) {
      if (hasBacking()) {
        return Promise.reject(
          new StreamdiskError(
            "source-lost",
            `Could not read ${part.length} bytes at ${offset} of '${file.name}': they are not local, and its backing file is not open`,
            { node: file.name, operation: "read", offset, length: part.length },
          ),
        );
      }
      part.fill(0);
      return undefined;
    }
    const inside = Math.max(0, Math.min(part.length, below.length - offset));
    if (inside < part.length) part.fill(0, inside);
    return inside > 0 ? below.read(offset, part.subarray(0, inside), signal) : undefined;
  }

  #readData(host: number, part: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { file, geometry } = this.#options;
    const inside = file.length - host;
    if (inside >= part.length) return file.read(host, part, signal);
    // The last cluster of a file may be short, not absent.
    if (roundDown(host + part.length - 1, geometry.clusterSize) >= file.length) {
      return Promise.reject(this.#truncated(host, part.length));
    }
    part.fill(0, Math.max(0, inside));
    return inside > 0 ? file.read(host, part.subarray(0, inside), signal) : Promise.resolve();
  }

  #truncated(host: number, length: number): StreamdiskError {
    const { file } = this.#options;
    return new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged or truncated: data at ${host} (${length} bytes) lies past the end of the file at ${file.length}`,
      { node: file.name, operation: "read", offset: host, length },
    );
  }

  async #readCompressed(offset: number, part: Uint8Array, host: number, length: number): Promise<void> {
    const { file, geometry, decompress } = this.#options;
    const inside = Math.min(length, file.length - host);
    if (inside <= 0 || decompress === undefined) throw this.#truncated(host, length);
    const compressed = new Uint8Array(inside);
    await file.read(host, compressed);
    const start = offset - (offset % geometry.clusterSize);
    const cluster = await decompress(compressed, start);
    part.set(cluster.subarray(offset - start, offset - start + part.length));
    letGo(compressed);
    letGo(cluster);
  }

  /** What this layer alone knows of a range. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    const { tables, geometry } = this.#options;
    const end = offset + length;
    const run = this.#run;
    const out: Extent[] = [];
    let position = offset;
    let loads = 0;
    while (position < end && out.length < MOST_EXTENTS && loads < MOST_LOADS) {
      let slice = this.#slice(position);
      if (slice === undefined) {
        slice = await this.#load(position);
        loads++;
      }
      if (slice === null) {
        // Steps over absent tables without a look at each cluster: a terabyte of nothing is a thousand steps.
        let index = Math.floor(position / geometry.sliceSpan) + 1;
        while (index * geometry.sliceSpan < end && !tables.has(index)) index++;
        const to = Math.min(end, index * geometry.sliceSpan);
        append(out, { offset: position, length: to - position, kind: "missing", depth: 0 });
        position = to;
        continue;
      }
      this.#runs.find(slice, position, end, run);
      append(out, extentOf(position, run.length, run.kind, run.host));
      position += run.length;
    }
    return out;
  }
}

function extentOf(offset: number, length: number, kind: number, host: number): Extent {
  if (kind === DATA) return { offset, length, kind: "data", depth: 0, hostOffset: host };
  if (kind === COMPRESSED) return { offset, length, kind: "data", depth: 0, compressed: true };
  if (kind === MISSING) return { offset, length, kind: "missing", depth: 0 };
  return { offset, length, kind: "zero", depth: 0, ...(host !== 0 && { hostOffset: host }) };
}

/** Adds an extent, joined to the last one when both say the same. */
function append(out: Extent[], next: Extent): void {
  const last = out.at(-1);
  const joins =
    last !== undefined &&
    last.kind === next.kind &&
    last.compressed === next.compressed &&
    (last.hostOffset === undefined ? next.hostOffset === undefined : last.hostOffset + last.length === next.hostOffset);
  if (joins) out[out.length - 1] = { ...last, length: last.length + next.length };
  else out.push(next);
}

/** Waits for all, also after a failure: nothing may write into the caller's buffer once it has been told. */
export async function allDone(doing: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(doing)) {
    if (result.status === "rejected") throw result.reason;
  }
}
