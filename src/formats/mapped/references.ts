/**
 * Counts how often each host cluster is referred to: what `check` compares with what the format says, and what a repair is
 * built from.
 *
 * Counts lie in chunks that exist only where something is referred to, and the sum of them is bounded, so that an image of a few
 * kilobytes whose entries point all over an address space of petabytes costs no more than it has entries.
 */
import { type BlockNode, isZero } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { ClusterEntry, MappingCodec } from "./codec.ts";
import type { Geometry } from "./geometry.ts";
import { tableOffsets } from "./host-map.ts";
import { newEntry } from "./runs.ts";

const CHUNK = 1024;
const MOST_CHUNKS = 512 * 1024;
const SATURATED = 0xffff;

export class ReferenceCounts {
  readonly #clusterSize: number;
  readonly #node: string;
  readonly #chunks = new Map<number, Uint16Array>();

  constructor(clusterSize: number, node: string) {
    this.#clusterSize = clusterSize;
    this.#node = node;
  }

  /** `times` more references to each cluster that [host, host + length) touches. */
  add(host: number, length: number, times = 1): void {
    const last = Math.floor((host + length - 1) / this.#clusterSize);
    for (let cluster = Math.floor(host / this.#clusterSize); cluster <= last; cluster++) {
      const chunk = this.#chunk(Math.floor(cluster / CHUNK));
      const at = cluster % CHUNK;
      chunk[at] = Math.min(SATURATED, (chunk[at] as number) + times);
    }
  }

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }

  /** One past the last cluster that is referred to. */
  get end(): number {
    let last = -1;
    for (const index of this.#chunks.keys()) last = Math.max(last, index);
    const chunk = this.#chunks.get(last);
    if (chunk === undefined) return 0;
    let at = CHUNK - 1;
    while (chunk[at] === 0) at--;
    return last * CHUNK + at + 1;
  }

  /** All clusters referred to, with their counts, in no particular order. */
  *[Symbol.iterator](): Generator<readonly [cluster: number, count: number], void, undefined> {
    for (const [index, chunk] of this.#chunks) {
      for (let at = 0; at < CHUNK; at++) {
        const count = chunk[at] as number;
        if (count > 0) yield [index * CHUNK + at, count];
      }
    }
  }

  #chunk(index: number): Uint16Array {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      if (this.#chunks.size >= MOST_CHUNKS) {
        throw new StreamdiskError(
          "invalid-image",
          `Could not check '${this.#node}': its clusters lie in more than ${MOST_CHUNKS} places far apart`,
          { node: this.#node, operation: "check" },
        );
      }
      chunk = new Uint16Array(CHUNK);
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }
}

/** Offsets that are there more than once, and how often. */
export function repeatedOffsets(offsets: Float64Array): Map<number, number> {
  const repeated = new Map<number, number>();
  const sorted = offsets.slice().sort();
  for (let i = 1; i < sorted.length; i++) {
    const offset = sorted[i] as number;
    if (offset === sorted[i - 1]) repeated.set(offset, (repeated.get(offset) ?? 1) + 1);
  }
  return repeated;
}

const MOST_SENTENCES = 100;

/** What was found; the first hundred sentences are kept. */
export class Findings {
  readonly #damage: string[] = [];
  readonly #waste: string[] = [];
  corruptions = 0;
  leaks = 0;

  /** What was found, damage first: a thousand leaks are no reason to keep it back. */
  get sentences(): string[] {
    return [...this.#damage, ...this.#waste].slice(0, MOST_SENTENCES);
  }

  /** @param sentence a function where there may be millions of them: it is made only when it is kept */
  corrupt(sentence: string | (() => string)): void {
    this.corruptions++;
    if (this.#hasRoom) this.#damage.push(typeof sentence === "string" ? sentence : sentence());
  }

  /** What cannot be decoded: the error says why, and is made only when its sentence is kept. */
  invalid(decode: () => void): void {
    this.corruptions++;
    if (!this.#hasRoom) return;
    try {
      decode();
    } catch (error) {
      this.#damage.push(error instanceof Error ? error.message : String(error));
    }
  }

  leak(sentence: string): void {
    this.leaks++;
    if (this.hasRoomForLeaks) this.#waste.push(sentence);
  }

  /** Whether one more sentence on leaks would be kept. */
  get hasRoomForLeaks(): boolean {
    return this.#waste.length < MOST_SENTENCES;
  }

  /** Whether one more sentence on damage would be kept. */
  get #hasRoom(): boolean {
    return this.#damage.length < MOST_SENTENCES;
  }
}

/** Figures of `check`, by cluster. */
export interface MappingFigures {
  allocated: number;
  fragmented: number;
  compressed: number;
  /** One past the last byte that the mapping uses. */
  endOffset: number;
}

export interface WalkOptions {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  /** Entries of an L1 table, as they are on disk. */
  readonly l1: Uint8Array;
  readonly references: ReferenceCounts;
  /** Takes the references to L2 tables alone, too. */
  readonly tables?: ReferenceCounts;
  readonly findings: Findings;
  readonly figures?: MappingFigures;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((fraction: number) => void) | undefined;
  /**
   * Called for each slice of a table that could be read and is not zero, after its entries were counted.
   * @param host where it lies in the file
   * @param bad indexes of entries that are invalid
   */
  readonly onSlice?: (host: number, view: DataView, bad: readonly number[], l1Index: number) => Promise<void> | void;
  /** Called for each L1 entry that is invalid. */
  readonly onBadTable?: (l1Index: number) => void;
}

/**
 * Counts every reference that a mapping makes. Tables are read slice by slice, each once: no sound image refers to a table twice, and
 * one that is all references to the same table would be the work of days.
 */
export async function walkMapping(options: WalkOptions): Promise<void> {
  const { file, codec, geometry, l1, references, findings, signal } = options;
  const l1View = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  const tableEntry = { host: 0, owned: false };
  const bytes = new Uint8Array(geometry.sliceBytes);
  const view = new DataView(bytes.buffer);
  const count = l1.length / 8;
  const repeated = repeatedOffsets(tableOffsets(codec, l1));
  for (let l1Index = 0; l1Index < count; l1Index++) {
    signal?.throwIfAborted();
    if (!codec.tryDecodeL1(l1View, l1Index, tableEntry)) {
      findings.invalid(() => codec.decodeL1(l1View, l1Index, tableEntry));
      options.onBadTable?.(l1Index);
      continue;
    }
    const { host } = tableEntry;
    if (host === 0) continue;
    if (host + geometry.tableBytes > file.length) {
      findings.corrupt(
        () => `L1 entry ${l1Index} points to a table at ${host}, past the end of the file at ${file.length}`,
      );
      options.onBadTable?.(l1Index);
      continue;
    }
    const times = repeated.get(host) ?? 1;
    if (times === 0) continue;
    if (times > 1) repeated.set(host, 0);
    references.add(host, geometry.tableBytes, times);
    options.tables?.add(host, geometry.tableBytes, times);
    if (options.figures) raiseEnd(options.figures, host + geometry.tableBytes);
    const previous = { end: 0 };
    for (let at = 0; at < geometry.tableBytes; at += bytes.length) {
      await file.read(host + at, bytes);
      if (isZero(bytes)) continue;
      const first = l1Index * geometry.tableEntries + at / codec.entryBytes;
      const bad = countSlice(options, view, { first, previous, times });
      await options.onSlice?.(host + at, view, bad, l1Index);
    }
    options.onProgress?.((l1Index + 1) / count);
  }
}

interface SlicePlace {
  /** Guest cluster of the slice's first entry. */
  readonly first: number;
  /** Where the table's last cluster ended in the file, kept from slice to slice. */
  readonly previous: { end: number };
  /** How often the table is referred to. */
  readonly times: number;
}

function countSlice(options: WalkOptions, view: DataView, { first, previous, times }: SlicePlace): number[] {
  const { codec, geometry, file, references, findings, figures } = options;
  const entry: ClusterEntry = newEntry();
  const bad: number[] = [];
  for (let index = 0; index < geometry.sliceEntries; index++) {
    if (!codec.tryDecode(view, index, entry)) {
      findings.invalid(() => codec.decode(view, index, entry));
      bad.push(index);
      continue;
    }
    if (entry.host === 0) continue;
    const length = entry.compressedLength || geometry.clusterSize;
    // The last cluster of a file may be short, not absent.
    if (entry.host + length - file.length >= geometry.clusterSize) {
      const guest = (first + index) * geometry.clusterSize;
      findings.corrupt(`The cluster of guest offset ${guest} lies at ${entry.host}, past the end of the file`);
      bad.push(index);
      continue;
    }
    references.add(entry.host, length, times);
    if (figures === undefined) continue;
    figures.allocated++;
    if (entry.compressedLength > 0) {
      // As qemu-img counts: a compressed cluster is a fragment by itself.
      figures.compressed++;
      figures.fragmented++;
    } else {
      if (previous.end !== 0 && entry.host !== previous.end) figures.fragmented++;
      previous.end = entry.host + geometry.clusterSize;
    }
    raiseEnd(figures, entry.host + length);
  }
  return bad;
}

function raiseEnd(figures: MappingFigures, end: number): void {
  if (end > figures.endOffset) figures.endOffset = end;
}
