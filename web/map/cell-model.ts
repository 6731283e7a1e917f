/**
 * A part of a disk in cells: what each has, kept up to date by what the daemon tells as it happens.
 *
 * Between two answers of the daemon it is right but for what cannot be told from ranges alone (what became zero rather than data, and what
 * was widened): then it says that it is stale, and whoever has it asks for the cells again.
 */
import type { DiskCells, Live } from "../../src/client/index.ts";

export class CellModel {
  readonly offset: number;
  readonly cellLength: number;
  readonly count: number;
  /** Bytes of each cell. */
  readonly local: Float64Array;
  readonly missing: Float64Array;
  /** Whether something of it was written by a guest, is on its way, or is waited for. */
  readonly written: Uint8Array;
  readonly inFlight: Uint8Array;
  readonly waiting: Uint8Array;
  stale: boolean;
  readonly #end: number;

  /** @param disk its size in bytes */
  constructor({ offset, cellLength, local, missing, complete }: DiskCells, disk: number) {
    this.offset = offset;
    this.cellLength = cellLength;
    this.count = local.length;
    this.#end = Math.min(disk, offset + local.length * cellLength);
    this.local = Float64Array.from(local, (share, index) => (share / 255) * this.lengthOf(index));
    this.missing = Float64Array.from(missing, (share, index) => (share / 255) * this.lengthOf(index));
    this.written = new Uint8Array(this.count);
    this.inFlight = new Uint8Array(this.count);
    this.waiting = new Uint8Array(this.count);
    this.stale = !complete;
  }

  get end(): number {
    return this.#end;
  }

  /** Bytes of a cell: the last may have fewer. */
  lengthOf(index: number): number {
    return Math.min(this.cellLength, this.#end - this.offset - index * this.cellLength);
  }

  startOf(index: number): number {
    return this.offset + index * this.cellLength;
  }

  /** The cell in which a place lies; undefined when it is not shown. */
  indexOf(place: number): number | undefined {
    const index = Math.floor((place - this.offset) / this.cellLength);
    return index >= 0 && index < this.count ? index : undefined;
  }

  /** All cells together. */
  total(): { readonly local: number; readonly zero: number; readonly missing: number } {
    const local = this.local.reduce((sum, part) => sum + part, 0);
    const missing = this.missing.reduce((sum, part) => sum + part, 0);
    return { local, missing, zero: Math.max(0, this.#end - this.offset - local - missing) };
  }

  /** Takes in what has happened, and what goes on now. */
  apply({ fetched, read, written, zeroed, inFlight, waiting, inexact }: Live): void {
    for (const ranges of [fetched, read]) {
      this.#each(ranges, (index, length) => {
        const arrived = Math.min(length, this.missing[index] ?? 0);
        this.missing[index] = (this.missing[index] ?? 0) - arrived;
        this.local[index] = (this.local[index] ?? 0) + arrived;
      });
    }
    this.#each(written, (index, length) => {
      const size = this.lengthOf(index);
      const room = size - (this.local[index] ?? 0);
      const added = Math.min(length, room);
      this.local[index] = (this.local[index] ?? 0) + added;
      this.missing[index] = Math.min(this.missing[index] ?? 0, room - added);
    });
    this.markWritten(written);
    this.#mark(this.inFlight, inFlight);
    this.#mark(this.waiting, waiting);
    this.stale ||= inexact || zeroed.length > 0;
  }

  /** @param ranges offset and length, one after the other */
  markWritten(ranges: readonly number[]): void {
    this.#each(ranges, (index) => {
      this.written[index] = 1;
    });
  }

  #mark(flags: Uint8Array, ranges: readonly number[]): void {
    flags.fill(0);
    this.#each(ranges, (index) => {
      flags[index] = 1;
    });
  }

  #each(ranges: readonly number[], act: (index: number, length: number) => void): void {
    for (let at = 0; at + 1 < ranges.length; at += 2) {
      const start = Math.max(this.offset, ranges[at] ?? 0);
      const end = Math.min(this.#end, (ranges[at] ?? 0) + (ranges[at + 1] ?? 0));
      for (let position = start; position < end; ) {
        const index = Math.floor((position - this.offset) / this.cellLength);
        const next = Math.min(end, this.startOf(index + 1));
        act(index, next - position);
        position = next;
      }
    }
  }
}
