/**
 * One refcount block in the bytes of the disk (QEMU docs/interop/qcow2, "Reference counting"): an array of counts of 1 to 64
 * bits, big endian; below 8 bits the lowest bits of a byte come first.
 */
import { viewOf } from "./big-endian.ts";

const HIGH = 2 ** 32;

export class RefcountBlock {
  readonly index: number;
  readonly host: number;
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #bits: number;
  /** Nothing on disk refers to it yet. */
  isNew: boolean;
  dirtyFrom = Number.POSITIVE_INFINITY;
  dirtyTo = 0;
  /** Checkpoints that are writing it, and allocations that are about to count in it. */
  pins = 0;

  constructor(index: number, host: number, bytes: Uint8Array, bits: number, isNew: boolean) {
    this.index = index;
    this.host = host;
    this.bytes = bytes;
    this.#view = viewOf(bytes);
    this.#bits = bits;
    this.isNew = isNew;
  }

  get dirty(): boolean {
    return this.isNew || this.dirtyTo > 0;
  }

  /** A count over 2^53 comes back as an imprecise number, which is as good: nothing has so many references. */
  get(at: number): number {
    const bits = this.#bits;
    if (bits === 16) return this.#view.getUint16(at * 2);
    if (bits === 8) return this.bytes[at] as number;
    if (bits === 32) return this.#view.getUint32(at * 4);
    if (bits === 64) return this.#view.getUint32(at * 8) * HIGH + this.#view.getUint32(at * 8 + 4);
    return ((this.bytes[Math.floor((at * bits) / 8)] as number) >> ((at * bits) % 8)) & (2 ** bits - 1);
  }

  set(at: number, count: number): void {
    const bits = this.#bits;
    const from = Math.floor((at * bits) / 8);
    if (bits === 16) this.#view.setUint16(from, count);
    else if (bits === 8) this.bytes[from] = count;
    else if (bits === 32) this.#view.setUint32(from, count);
    else if (bits === 64) {
      this.#view.setUint32(from, Math.floor(count / HIGH));
      this.#view.setUint32(from + 4, count % HIGH);
    } else {
      const shift = (at * bits) % 8;
      const mask = (2 ** bits - 1) << shift;
      this.bytes[from] = ((this.bytes[from] as number) & ~mask) | (count << shift);
    }
    this.touch(from, from + Math.max(1, bits / 8));
  }

  touch(from: number, to: number): void {
    if (from < this.dirtyFrom) this.dirtyFrom = from;
    if (to > this.dirtyTo) this.dirtyTo = to;
  }
}
