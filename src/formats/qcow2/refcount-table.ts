/**
 * The refcount table in memory: which regions of the file have a block, and where (QEMU docs/interop/qcow2, "Reference
 * counting"). It is written in checkpoints, after the blocks that it points to; one that has outgrown its place is written whole to
 * another, and then the header turns to it.
 */
import type { MetadataWrite } from "../mapped/allocator.ts";
import { getUint64, viewOf } from "./big-endian.ts";

/** Host offsets of all blocks that a refcount table points to. */
export function blockOffsets(table: Uint8Array): Float64Array {
  const view = viewOf(table);
  const offsets = new Float64Array(table.length / 8);
  for (let region = 0; region < offsets.length; region++) offsets[region] = getUint64(view, region * 8);
  return offsets.filter((host) => host !== 0);
}

/** A stretch of the file. */
export interface TablePlace {
  readonly offset: number;
  readonly length: number;
}

/** What a checkpoint has to write of the table. */
export interface TableSnapshot {
  /** Written with the blocks: nothing refers to it yet. */
  readonly content: readonly MetadataWrite[];
  /** Written after a flush of the blocks. */
  readonly roots: readonly MetadataWrite[];
  /** Where the table was, when the header turns to another place with these writes. */
  readonly moved: TablePlace | undefined;
  /** It could not be written: all of it is dirty again. */
  undo(): void;
}

/** Offset of `refcount_table_offset` (8 bytes) and `refcount_table_clusters` (4) in the header: inside the first sector. */
const HEADER_FIELDS = 48;

export class RefcountTable {
  readonly #clusterSize: number;
  #bytes: Uint8Array;
  #view: DataView;
  #offset: number;
  #dirtyFrom = Number.POSITIVE_INFINITY;
  #dirtyTo = 0;
  /** Where the header on disk says that it lies, when it has moved. */
  #movedFrom: TablePlace | undefined;

  /** @param bytes the table as on disk */
  constructor(bytes: Uint8Array, offset: number, clusterSize: number) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#offset = offset;
    this.#clusterSize = clusterSize;
  }

  get dirty(): boolean {
    return this.#dirtyTo > 0;
  }

  get place(): TablePlace {
    return { offset: this.#offset, length: this.#bytes.length };
  }

  /** Regions that the table can speak of. */
  get regions(): number {
    return this.#bytes.length / 8;
  }

  /** Host offset of a region's block; 0: none. */
  blockHost(region: number): number {
    return region < this.regions ? getUint64(this.#view, region * 8) : 0;
  }

  setBlockHost(region: number, host: number): void {
    this.#view.setBigUint64(region * 8, BigInt(host));
    this.#touch(region * 8, region * 8 + 8);
  }

  #touch(from: number, to: number): void {
    this.#dirtyFrom = Math.min(this.#dirtyFrom, from);
    this.#dirtyTo = Math.max(this.#dirtyTo, to);
  }

  /**
   * Gives it a new place and a greater length; the whole of it is to be written there.
   * @returns a place that it was to have and never had on disk: free at once
   */
  move(offset: number, length: number): TablePlace | undefined {
    const old = this.place;
    const longer = new Uint8Array(length);
    longer.set(this.#bytes);
    this.#bytes = longer;
    this.#view = viewOf(longer);
    this.#offset = offset;
    this.#touch(0, length);
    if (this.#movedFrom !== undefined) return old;
    this.#movedFrom = old;
    return undefined;
  }

  /** Takes what is dirty; it counts as clean then. */
  snapshot(): TableSnapshot {
    if (!this.dirty) return { content: [], roots: [], moved: undefined, undo: () => {} };
    const from = this.#dirtyFrom;
    const to = this.#dirtyTo;
    const moved = this.#movedFrom;
    const write = { offset: this.#offset + from, bytes: this.#bytes.slice(from, to) };
    this.#dirtyFrom = Number.POSITIVE_INFINITY;
    this.#dirtyTo = 0;
    this.#movedFrom = undefined;
    const turn = { offset: HEADER_FIELDS, bytes: this.#headerFields() };
    return {
      content: moved === undefined ? [] : [write],
      roots: moved === undefined ? [write] : [turn],
      moved,
      undo: () => {
        this.#touch(from, to);
        this.#movedFrom = moved;
      },
    };
  }

  #headerFields(): Uint8Array {
    const bytes = new Uint8Array(12);
    const view = viewOf(bytes);
    view.setBigUint64(0, BigInt(this.#offset));
    view.setUint32(8, this.#bytes.length / this.#clusterSize);
    return bytes;
  }
}
