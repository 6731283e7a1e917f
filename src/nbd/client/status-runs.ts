/**
 * What a server says of a range in one metadata context: runs of one status each, without gaps. Neighbours of equal status
 * are one run, and beyond a bound the rest is left unkept: whoever asks goes on from where the runs end.
 */

/** Runs of one reply that are kept. */
const MOST_RUNS = 65536;

export class StatusRuns {
  readonly lengths: number[] = [];
  readonly flags: number[] = [];
  /** Bytes that the runs kept cover. */
  kept = 0;
  /** Bytes that the reply has covered, kept or not. */
  told = 0;

  add(length: number, flags: number): void {
    const last = this.flags.length - 1;
    if (this.kept === this.told) {
      if (this.flags[last] === flags) {
        this.lengths[last]! += length;
        this.kept += length;
      } else if (last + 1 < MOST_RUNS) {
        this.lengths.push(length);
        this.flags.push(flags);
        this.kept += length;
      }
    }
    this.told += length;
  }
}
