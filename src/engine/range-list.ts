/**
 * Ranges of a disk, joined where they touch, and never more than a few. When there would be more they are widened to multiples of a unit,
 * which grows until they are few again: then they say roughly where, and `widened` says so.
 */
const MOST_RANGES = 256;
/** How far the number falls when they are widened, so that it is seldom done. */
const FEW = MOST_RANGES / 2;
const FIRST_UNIT = 64 * 1024;

export class RangeList {
  #starts: number[] = [];
  #ends: number[] = [];
  #unit = 1;

  get widened(): boolean {
    return this.#unit > 1;
  }

  get isEmpty(): boolean {
    return this.#starts.length === 0;
  }

  add(offset: number, length: number): void {
    if (length <= 0) return;
    const start = Math.floor(offset / this.#unit) * this.#unit;
    const end = Math.ceil((offset + length) / this.#unit) * this.#unit;
    const first = this.#firstTouching(start);
    let after = first;
    while (after < this.#starts.length && (this.#starts[after] as number) <= end) after++;
    const from = first < after ? Math.min(start, this.#starts[first] as number) : start;
    const to = first < after ? Math.max(end, this.#ends[after - 1] as number) : end;
    this.#starts.splice(first, after - first, from);
    this.#ends.splice(first, after - first, to);
    if (this.#starts.length > MOST_RANGES) this.#widen();
  }

  /** The index of the first range that does not end before a position. */
  #firstTouching(position: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ends[middle] as number) < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #widen(): void {
    while (this.#starts.length > FEW) {
      this.#unit = Math.max(FIRST_UNIT, this.#unit * 4);
      const [starts, ends] = [this.#starts, this.#ends];
      this.#starts = [];
      this.#ends = [];
      for (const [index, start] of starts.entries()) this.add(start, (ends[index] as number) - start);
    }
  }

  /** Offset and length of each, one after the other; it is empty from then on. */
  take(): number[] {
    const taken = this.#starts.flatMap((start, index) => [start, (this.#ends[index] as number) - start]);
    this.#starts = [];
    this.#ends = [];
    this.#unit = 1;
    return taken;
  }
}
