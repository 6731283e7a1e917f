/**
 * Puts bytes into clusters: guest writes and populates alike.
 *
 * Under the exclusive lock of the clusters concerned: plan, allocate, write all data to the file, and only then change the mapping, in
 * memory, without a pause between the entries of one slice. A crash before that leaves allocated clusters that nothing refers to.
 * What a write covers of a part that is not data yet, but does not fill, is read from the old content first.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { ClusterAllocator } from "./allocator.ts";
import type { Checkpoints } from "./checkpoint.ts";
import type { MappingCodec } from "./codec.ts";
import { bitCount, type Geometry } from "./geometry.ts";
import type { HostMap } from "./host-map.ts";
import { type ClusterPlan, maskRuns, Planner } from "./placement.ts";
import { allDone, type MappedReader } from "./reader.ts";
import { newEntry } from "./runs.ts";
import type { L2Slice, MappingTables } from "./tables.ts";

export interface WriterOptions {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  readonly allocator: ClusterAllocator;
  readonly checkpoints: Checkpoints;
  readonly reader: MappedReader;
  readonly hostMap: HostMap;
  /** Virtual size: what lies past it reads as zeroes when a cluster is filled. */
  readonly length: () => number;
}

/** Bytes that go to one stretch of the file. */
interface Piece {
  /** Guest offsets. */
  readonly from: number;
  to: number;
  readonly host: number;
  /** Everything comes from the old content. */
  readonly oldOnly: boolean;
}

/** What happened to the mapping. */
export interface Placed {
  /** Bytes of parts that became data. */
  readonly bytes: number;
  /** The caller must wait for a checkpoint before it acknowledges. */
  readonly mustCheckpoint: boolean;
}

export class MappedWriter {
  readonly #options: WriterOptions;
  readonly #planner: Planner;
  readonly #entry = newEntry();

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#planner = new Planner(options.codec, options.geometry);
  }

  /**
   * Overwrites data in place, under a shared lock. Returns undefined when the mapping would have to change, without having
   * written anything.
   */
  async overwrite(slice: L2Slice, offset: number, data: Uint8Array): Promise<Placed | undefined> {
    const end = offset + data.length;
    const plans = this.#planner.plan({ slice, start: offset, end, onlyMissing: false });
    if (!plans.every((plan) => plan.mapped)) return undefined;
    slice.pins++;
    try {
      await this.#writePieces(this.#pieces(plans, offset, end, false), offset, data);
      return { bytes: 0, mustCheckpoint: this.#acknowledge(slice, plans) };
    } finally {
      slice.pins--;
    }
  }

  /** Writes a range, slice by slice; exclusive lock held. */
  async place(offset: number, data: Uint8Array, onlyMissing: boolean): Promise<Placed> {
    const { tables, checkpoints, geometry } = this.#options;
    let bytes = 0;
    let mustCheckpoint = false;
    let done = 0;
    while (done < data.length) {
      if (tables.crowded) await checkpoints.run(false);
      const most = geometry.sliceSpan - ((offset + done) % geometry.sliceSpan);
      const part = data.subarray(done, done + most);
      const placed = await this.#placeInSlice(offset + done, part, onlyMissing);
      bytes += placed.bytes;
      mustCheckpoint ||= placed.mustCheckpoint;
      done += part.length;
    }
    return { bytes, mustCheckpoint };
  }

  async #placeInSlice(offset: number, data: Uint8Array, onlyMissing: boolean): Promise<Placed> {
    const { tables, geometry, allocator } = this.#options;
    const sliceIndex = Math.floor(offset / geometry.sliceSpan);
    const end = offset + data.length;
    const present = tables.peek(sliceIndex) ?? (await tables.load(sliceIndex));
    if (this.#planner.plan({ slice: present, start: offset, end, onlyMissing }).length === 0) {
      return { bytes: 0, mustCheckpoint: false };
    }
    const ready = tables.forWrite(sliceIndex);
    const slice = ready instanceof Promise ? await ready : ready;
    slice.pins++;
    try {
      const plans = this.#planner.plan({ slice, start: offset, end, onlyMissing });
      const fresh = plans.filter((plan) => plan.way !== "keep");
      try {
        await this.#allocate(fresh);
        await this.#writePieces(this.#pieces(plans, offset, end, onlyMissing), offset, data);
      } catch (error) {
        for (const plan of fresh) {
          if (plan.host !== 0) await allocator.release(plan.host, geometry.clusterSize);
        }
        throw error;
      }
      const bytes = this.#map(slice, plans);
      const mustCheckpoint = onlyMissing ? this.#noteUnlogged(slice, plans) : this.#acknowledge(slice, plans);
      return { bytes, mustCheckpoint };
    } finally {
      slice.pins--;
    }
  }

  async #allocate(plans: readonly ClusterPlan[]): Promise<void> {
    const { allocator, geometry } = this.#options;
    let done = 0;
    while (done < plans.length) {
      const run = await allocator.allocate(1, plans.length - done);
      for (let i = 0; i < run.count; i++) {
        (plans[done + i] as ClusterPlan).host = run.host + i * geometry.clusterSize;
      }
      done += run.count;
    }
  }

  /** The stretches of the file to write, neighbours joined. */
  #pieces(plans: readonly ClusterPlan[], start: number, end: number, onlyMissing: boolean): Piece[] {
    const { geometry } = this.#options;
    const pieces: Piece[] = [];
    const add = (piece: Piece) => {
      const last = pieces.at(-1);
      const joins =
        last !== undefined &&
        !last.oldOnly &&
        !piece.oldOnly &&
        last.to === piece.from &&
        last.host + (last.to - last.from) === piece.host;
      if (joins) last.to = piece.to;
      else pieces.push(piece);
    };
    for (const plan of plans) {
      this.#guard(plan.host);
      if (plan.mapped) {
        const from = Math.max(start, plan.start);
        const to = Math.min(end, plan.start + geometry.clusterSize);
        add({ from, to, host: plan.host + (from - plan.start), oldOnly: false });
        continue;
      }
      const addRuns = (mask: number, copied: boolean) => {
        for (const run of maskRuns(mask)) {
          const from = plan.start + run.from * geometry.grain;
          const to = plan.start + run.to * geometry.grain;
          const oldOnly = copied || to <= start || from >= end;
          add({ from, to, host: plan.host + run.from * geometry.grain, oldOnly });
        }
      };
      // A populate has no say in what is there already, a write has.
      const kept = onlyMissing ? plan.copied : 0;
      addRuns(kept, true);
      addRuns((plan.mask & ~kept) >>> 0, false);
    }
    return pieces;
  }

  #guard(host: number): void {
    const { hostMap, geometry, file } = this.#options;
    const hit = hostMap.hit(host, host + geometry.clusterSize);
    if (hit === undefined) return;
    throw new StreamdiskError(
      "invalid-image",
      `Image '${file.name}' is damaged: the cluster at ${host} would hold guest data, but ${hit} lies there; nothing was written (try 'qemu-img check')`,
      { node: file.name, operation: "write", offset: host, length: geometry.clusterSize },
    );
  }

  async #writePieces(pieces: readonly Piece[], start: number, data: Uint8Array): Promise<void> {
    if (pieces.length === 1) return this.#writePiece(pieces[0] as Piece, start, data);
    await allDone(pieces.map((piece) => this.#writePiece(piece, start, data)));
  }

  async #writePiece(piece: Piece, start: number, data: Uint8Array): Promise<void> {
    const { file } = this.#options;
    const end = start + data.length;
    if (!piece.oldOnly && piece.from >= start && piece.to <= end) {
      return file.write(piece.host, data.subarray(piece.from - start, piece.to - start));
    }
    const bytes = new Uint8Array(piece.to - piece.from);
    if (piece.oldOnly) await this.#readOld(piece.from, bytes);
    else {
      const from = Math.max(piece.from, start);
      const to = Math.min(piece.to, end);
      const head = this.#readOld(piece.from, bytes.subarray(0, from - piece.from));
      const tail = this.#readOld(to, bytes.subarray(to - piece.from));
      await allDone([head, tail]);
      bytes.set(data.subarray(from - start, to - start), from - piece.from);
    }
    return file.write(piece.host, bytes);
  }

  /** What the guest sees of a range now; zeroes past the end of the disk, so that growing it exposes nothing. */
  async #readOld(offset: number, target: Uint8Array): Promise<void> {
    const inside = Math.min(target.length, this.#options.length() - offset);
    if (inside > 0) await this.#options.reader.read(offset, target.subarray(0, inside));
  }

  /** The data is in the file: makes it visible. Returns the bytes of parts that were not data before. */
  #map(slice: L2Slice, plans: readonly ClusterPlan[]): number {
    const { codec, tables, geometry } = this.#options;
    let parts = 0;
    for (const plan of plans) {
      if (plan.mapped) continue;
      const entry = this.#entry;
      codec.decode(slice.view, plan.index, entry);
      parts += bitCount((plan.mask & ~entry.data) >>> 0);
      entry.host = plan.host;
      entry.owned = true;
      entry.compressedLength = 0;
      entry.data = (entry.data | plan.mask) >>> 0;
      entry.zero = (entry.zero & ~plan.mask) >>> 0;
      tables.set(slice, plan.index, entry);
      if (plan.oldLength > 0) tables.free(plan.oldHost, plan.oldLength);
    }
    return parts * geometry.grain;
  }

  /** A populate: its mappings may be lost with the process. */
  #noteUnlogged(slice: L2Slice, plans: readonly ClusterPlan[]): false {
    for (const plan of plans) this.#options.checkpoints.noteUnlogged(this.#cluster(slice, plan.index));
    return false;
  }

  /** A guest write: none of the mappings that lead to it may be lost with the process. */
  #acknowledge(slice: L2Slice, plans: readonly ClusterPlan[]): boolean {
    let mustWait = false;
    for (const plan of plans) {
      if (plan.mapped && !this.#options.checkpoints.isUnlogged(this.#cluster(slice, plan.index))) continue;
      if (this.acknowledge(slice, plan.index)) mustWait = true;
    }
    return mustWait;
  }

  /** Keeps one mapping over the death of the process; true when only a checkpoint can. */
  acknowledge(slice: L2Slice, index: number): boolean {
    const { entryBytes } = this.#options.codec;
    const entry = slice.bytes.subarray(index * entryBytes, (index + 1) * entryBytes);
    return this.#options.checkpoints.noteAcknowledged(this.#cluster(slice, index), entry);
  }

  #cluster(slice: L2Slice, index: number): number {
    return slice.index * this.#options.geometry.sliceEntries + index;
  }
}
