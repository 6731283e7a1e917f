/**
 * Makes parts of clusters read as zeroes by the mapping alone, and gives their space back. Exclusive lock held.
 *
 * Where the format cannot say "zero" (qcow2 version 2): without a backing file a cluster is unmapped; over one, zeroes are written as
 * data, since an unmapped cluster would show the base.
 */

import type { Checkpoints } from "./checkpoint.ts";
import type { MappingCodec } from "./codec.ts";
import { type Geometry, partMask, roundDown } from "./geometry.ts";
import { newEntry } from "./runs.ts";
import type { L2Table, MappingTables } from "./tables.ts";
import type { MappedWriter } from "./writer.ts";

const ZEROES = new Uint8Array(1024 * 1024);

export interface ZeroerOptions {
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  readonly checkpoints: Checkpoints;
  readonly writer: MappedWriter;
  readonly hasBacking: () => boolean;
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

  /** Zeroes [start, end), which begins and ends at a grain. */
  async zero(start: number, end: number, onlyMissing: boolean): Promise<Zeroed> {
    const { geometry, tables, checkpoints, codec, hasBacking } = this.#options;
    const total: Zeroed = { bytes: 0, mustCheckpoint: false };
    const mustWrite = !codec.hasZero && hasBacking();
    let position = start;
    while (position < end) {
      if (tables.crowded) await checkpoints.run(false);
      const l1Index = Math.floor(position / geometry.tableSpan);
      const to = Math.min(end, (l1Index + 1) * geometry.tableSpan);
      if (mustWrite) await this.#writeZeroes(position, to, onlyMissing, total);
      else await this.#zeroInTable(l1Index, position, to, onlyMissing, total);
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

  async #zeroInTable(l1Index: number, start: number, end: number, onlyMissing: boolean, total: Zeroed): Promise<void> {
    const { geometry, tables, hasBacking } = this.#options;
    const present = tables.peek(l1Index) ?? (await tables.load(l1Index));
    if (present === null && !hasBacking()) return;
    const ready = tables.forWrite(l1Index);
    const table = ready instanceof Promise ? await ready : ready;
    table.pins++;
    try {
      for (let cluster = roundDown(start, geometry.clusterSize); cluster < end; cluster += geometry.clusterSize) {
        const from = Math.max(start, cluster);
        const to = Math.min(end, cluster + geometry.clusterSize);
        const touched = partMask((from - cluster) / geometry.grain, (to - cluster) / geometry.grain);
        const split = this.#zeroCluster(table, cluster, touched, onlyMissing, total);
        // Part of a compressed cluster: it has to be taken apart first.
        if (split) await this.#writeZeroes(from, to, false, total);
      }
    } finally {
      table.pins--;
    }
  }

  /** Returns true when the cluster cannot be zeroed in part by its entry. */
  #zeroCluster(table: L2Table, cluster: number, touched: number, onlyMissing: boolean, total: Zeroed): boolean {
    const { codec, geometry, tables, checkpoints, writer, hasBacking } = this.#options;
    const index = (cluster / geometry.clusterSize) % geometry.tableEntries;
    const entry = this.#entry;
    codec.decode(table.view, index, entry);
    const missing = (touched & ~(entry.data | entry.zero)) >>> 0;
    const shown = hasBacking() ? missing : 0;
    const mask = onlyMissing ? shown : ((touched & entry.data) | shown) >>> 0;
    if (mask === 0) return false;
    if (entry.compressedLength > 0 && (entry.data & ~mask) !== 0) return true;
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
    tables.set(table, index, entry);
    if (onlyMissing) {
      for (let part = mask; part !== 0; part = (part & (part - 1)) >>> 0) total.bytes += geometry.grain;
      checkpoints.noteUnlogged(table.l1Index * geometry.tableEntries + index);
    } else if (writer.acknowledge(table, index)) total.mustCheckpoint = true;
    return false;
  }
}
