/**
 * How many bytes may be under way at once.
 *
 * The rule is that of somebody who turns a knob and looks: the window doubles while each doubling raises the throughput
 * by a quarter or more of the best there was before. Where answers take their time it nearly doubles too; less may be
 * chance. When it does not, it is taken back, and the window rests for some time; then it tries the other way: it is halved,
 * and stays so when that costs nothing (less than a twentieth), since a smaller window is less memory and less in front of
 * a guest. After the next rest it tries to grow again.
 *
 * One try lasts an epoch: at least two windows full of bytes and a tenth of a second.
 */

export const SMALLEST_WINDOW = 4 * 2 ** 20;
export const LARGEST_WINDOW = 64 * 2 ** 20;

const SHORTEST_EPOCH = 100;
const EPOCHS_OF_REST = 10;
/** A program that has just started gets faster by itself. */
const EPOCHS_OF_FIRST_REST = 4;

export class AdaptiveWindow {
  #size: number;
  readonly #adapts: boolean;
  #epochStart: number;
  #epochBytes = 0;
  /** Bytes a millisecond in the epoch before the try, and in the best one since the size last changed; 0 while there was none. */
  #lastRate = 0;
  #bestRate = 0;
  #trying: "grow" | "shrink" | "rest" = "rest";
  #nextTry: "grow" | "shrink" = "grow";
  #rest = EPOCHS_OF_FIRST_REST;

  /** @param fixed a size in bytes that never changes */
  constructor(now: number, fixed?: number) {
    this.#size = fixed ?? SMALLEST_WINDOW;
    this.#adapts = fixed === undefined;
    this.#epochStart = now;
  }

  /** In bytes. */
  get size(): number {
    return this.#size;
  }

  /** Notes bytes that have arrived. */
  arrived(bytes: number, now: number): void {
    this.#epochBytes += bytes;
    const elapsed = now - this.#epochStart;
    if (!this.#adapts || elapsed < SHORTEST_EPOCH || this.#epochBytes < 2 * this.#size) return;
    this.#endEpoch(this.#epochBytes / elapsed);
    this.restart(now);
  }

  /** Begins a new epoch, after a time in which the window was not what held the stream back. */
  restart(now: number): void {
    this.#epochStart = now;
    this.#epochBytes = 0;
  }

  #endEpoch(rate: number): void {
    if (this.#trying === "grow" && rate < this.#bestRate * 1.25) {
      this.#size /= 2;
      this.#takeRest("shrink");
    } else if (this.#trying === "shrink" && rate < this.#lastRate * 0.95) {
      this.#size *= 2;
      this.#takeRest("grow");
    } else if (this.#trying === "shrink") {
      this.#takeRest("grow");
    } else if (this.#trying === "grow") {
      this.#bestRate = 0;
      this.#try("grow");
    } else if (--this.#rest < 0) {
      this.#try(this.#nextTry);
    }
    this.#lastRate = rate;
    this.#bestRate = Math.max(this.#bestRate, rate);
  }

  #try(way: "grow" | "shrink"): void {
    const size = way === "grow" ? this.#size * 2 : this.#size / 2;
    if (size > LARGEST_WINDOW || size < SMALLEST_WINDOW) {
      this.#takeRest(way === "grow" ? "shrink" : "grow");
      return;
    }
    this.#size = size;
    this.#trying = way;
  }

  #takeRest(nextTry: "grow" | "shrink"): void {
    this.#trying = "rest";
    this.#nextTry = nextTry;
    this.#rest = EPOCHS_OF_REST;
    this.#bestRate = 0;
  }
}
