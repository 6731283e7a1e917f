/**
 * Makes parts of clusters read as zeroes by the mapping alone, and gives their space back. Exclusive lock held.
 *
 * Where the format cannot say "zero" (qcow2 version 2): without a backing file a cluster is unmapped; over one, zeroes are written as
 * data, since an unmapped cluster would show the base.
 */

import type { BlockNode } from "../../block/index.ts";
import type { Checkpoints } from "./checkpoint.ts";
import type { MappingCodec } from "./codec.ts";
import { bitCount, type Geometry, partMask, roundDown, roundUp } from "./geometry.ts";
import { newEntry } from "./runs.ts";
import type { L2Slice, MappingTables } from "./tables.ts";
import type { MappedWriter } from "./writer.ts";

/** As long as the longest cluster that is zeroed by writing: each is filled in one go, and nothing is read for the rest of it. */
const ZEROES = new Uint8Array(2 * 1024 * 1024);

export interface ZeroerOptions {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  readonly checkpoints: Checkpoints;
  readonly writer: MappedWriter;
  readonly hasBacking: () => boolean;
  /** Whether the format can hand out again what is given back. */
  readonly reclaims: boolean;
}

/** What happened to the mapping. */
export interface Zeroed {
  /** Bytes that were missing and are zero now (populate only). */
  bytes: number;
  mustCheckpoint: boolean;
}

export class MappedZeroer {
  readonly #options: ZeroerOptions;
  readonly #entry = newEntry();

  constructor(options: ZeroerOptions) {
    this.#options = options;
  }

  /** Whether at least half of a range would be zeroed by its mapping; the rest is written. */
  isFast(offset: number, length: number): boolean {
    const { codec, geometry, reclaims, file } = this.#options;
    if (!codec.hasZero || !(reclaims || file.canZeroFast?.(0, geometry.grain))) return false;
    return (roundDown(offset + length, geometry.grain) - roundUp(offset, geometry.grain)) * 2 >= length;
  }

  /** Zeroes [start, end), which begins and ends at a grain. */
  async zero(start: number, end: number, onlyMissing: boolean): Promise<Zeroed> {
    const { geometry, tables, checkpoints, codec, hasBacking } = this.#options;
    const total: Zeroed = { bytes: 0, mustCheckpoint: false };
    const mustWrite = !codec.hasZero && hasBacking();
    let position = start;
    while (position < end) {
      if (tables.crowded) await checkpoints.run(false);
      const index = Math.floor(position / geometry.sliceSpan);
      const to = Math.min(end, (index + 1) * geometry.sliceSpan);
      if (mustWrite) await this.#writeZeroes(position, to, onlyMissing, total);
      else await this.#zeroInSlice(index, position, to, onlyMissing, total);
      position = to;
    }
    return total;
  }

  async #writeZeroes(start: number, end: number, onlyMissing: boolean, total: Zeroed): Promise<void> {
    for (let position = start; position < end; position += ZEROES.length) {
      const zeroes = ZEROES.subarray(0, Math.min(ZEROES.length, end - position));
      const placed = await this.#options.writer.place(position, zeroes, onlyMissing);
      total.bytes += placed.bytes;
      total.mustCheckpoint ||= placed.mustCheckpoint;
    }
  }

  async #zeroInSlice(
    sliceIndex: number,
    start: number,
    end: number,
    onlyMissing: boolean,
    total: Zeroed,
  ): Promise<void> {
    const { geometry, tables, hasBacking } = this.#options;
    const present = tables.peek(sliceIndex) ?? (await tables.load(sliceIndex));
    if (present === null && !hasBacking()) return;
    const ready = tables.forWrite(sliceIndex);
    const slice = ready instanceof Promise ? await ready : ready;
    slice.pins++;
    try {
      for (let cluster = roundDown(start, geometry.clusterSize); cluster < end; cluster += geometry.clusterSize) {
        const from = Math.max(start, cluster);
        const to = Math.min(end, cluster + geometry.clusterSize);
        const at = (cluster / geometry.clusterSize) % geometry.sliceEntries;
        const touched = partMask((from - cluster) / geometry.grain, (to - cluster) / geometry.grain);
        const way = this.#zeroCluster(slice, at, touched, onlyMissing, total);
        if (way === "write") await this.#writeZeroes(from, to, false, total);
        else if (way === "hole") await this.#punch(slice, at, total);
      }
    } finally {
      slice.pins--;
    }
  }

  /**
   * Zeroes parts of a cluster by its entry, if that can be.
   * @returns "write" for part of a compressed cluster, which has to be taken apart; "hole" where the format has no use for space
   * that is given back: the cluster keeps its place, and the file gets a hole there
   */
  #zeroCluster(
    slice: L2Slice,
    at: number,
    touched: number,
    onlyMissing: boolean,
    total: Zeroed,
  ): "done" | "write" | "hole" {
    const { codec, geometry, tables, checkpoints, writer, hasBacking, reclaims } = this.#options;
    const entry = this.#entry;
    codec.decode(slice.view, at, entry);
    const missing = (touched & ~(entry.data | entry.zero)) >>> 0;
    const shown = hasBacking() ? missing : 0;
    const mask = onlyMissing ? shown : ((touched & entry.data) | shown) >>> 0;
    if (mask === 0) {
      // It reads as zeroes, but perhaps by a mapping that would be lost with the process: whoever made it waits still.
      const cluster = slice.index * geometry.sliceEntries + at;
      if (!onlyMissing && checkpoints.isUnlogged(cluster) && writer.acknowledge(slice, at)) total.mustCheckpoint = true;
      return "done";
    }
    if (entry.compressedLength > 0 && (entry.data & ~mask) !== 0) return "write";
    if (!reclaims && entry.data !== 0) return "hole";
    const oldHost = entry.host;
    const oldLength = entry.host === 0 ? 0 : entry.compressedLength || geometry.clusterSize;
    entry.data = (entry.data & ~mask) >>> 0;
    entry.zero = codec.hasZero ? (entry.zero | mask) >>> 0 : 0;
    if (entry.data === 0) {
      entry.host = 0;
      entry.owned = false;
      entry.compressedLength = 0;
      if (oldLength > 0) tables.free(oldHost, oldLength);
    }
    tables.set(slice, at, entry);
    if (onlyMissing) {
      total.bytes += bitCount(mask) * geometry.grain;
      checkpoints.noteUnlogged(slice.index * geometry.sliceEntries + at);
    } else if (writer.acknowledge(slice, at)) total.mustCheckpoint = true;
    return "done";
  }

  async #punch(slice: L2Slice, at: number, total: Zeroed): Promise<void> {
    const { codec, geometry, file, writer, checkpoints } = this.#options;
    codec.decode(slice.view, at, this.#entry);
    const { host } = this.#entry;
    const inside = Math.min(geometry.clusterSize, file.length - host);
    if (inside > 0) await file.writeZeroes(host, inside);
    if (!checkpoints.isUnlogged(slice.index * geometry.sliceEntries + at)) return;
    if (writer.acknowledge(slice, at)) total.mustCheckpoint = true;
  }
}
