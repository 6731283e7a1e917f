/**
 * Which bytes of a read have come. Pieces may come in any order, and no byte may come twice; so all have come when as many
 * have as were asked for. Mostly they come in order, which costs one number.
 */

/** Pieces with a gap before them: more than a server has reason for, and a bound on memory and search. */
const MOST_ISLANDS = 4096;

export class Coverage {
  #bytes = 0;
  /** All below has come. */
  #prefix = 0;
  /** Beyond the prefix, apart from each other, rising: start, end, start, end... */
  readonly #islands: number[] = [];

  get bytes(): number {
    return this.#bytes;
  }

  /** Whether a byte in [start, end) has come. */
  overlaps(start: number, end: number): boolean {
    if (start < this.#prefix) return true;
    const next = this.#firstEndBeyond(start);
    return next < this.#islands.length && this.#islands[next - 1]! < end;
  }

  /**
   * Notes [start, end), of which no byte has come yet.
   *
   * @returns false when there are too many gaps
   */
  add(start: number, end: number): boolean {
    this.#bytes += end - start;
    const islands = this.#islands;
    if (start === this.#prefix) {
      this.#prefix = end;
      if (islands[0] === end) this.#prefix = islands.splice(0, 2)[1]!;
      return true;
    }
    const next = this.#firstEndBeyond(start) - 1;
    const touchesBefore = next > 0 && islands[next - 1] === start;
    const touchesAfter = islands[next] === end;
    if (touchesBefore && touchesAfter) islands.splice(next - 1, 2);
    else if (touchesBefore) islands[next - 1] = end;
    else if (touchesAfter) islands[next] = start;
    else islands.splice(next, 0, start, end);
    return islands.length <= 2 * MOST_ISLANDS;
  }

  /** Index of the first end of an island that lies beyond `position`; that of the end after the last one if none does. */
  #firstEndBeyond(position: number): number {
    let low = 0;
    let high = this.#islands.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#islands[2 * middle + 1]! > position) high = middle;
      else low = middle + 1;
    }
    return 2 * low + 1;
  }
}
