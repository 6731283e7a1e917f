/**
 * How many bytes may be under way at once.
 *
 * It starts small, so that the first answers say how long one takes when nothing is in front of it. Then the window doubles
 * with every two windows full of bytes for as long as answers take hardly longer than the quickest: what holds the stream back then
 * is the distance, not the source.
 *
 * After that the rule is that of somebody who turns a knob and looks: the window doubles while each doubling raises the throughput
 * by a quarter or more of the best there was before; less may be chance. When it does not, it is taken back, and the window rests for
 * some time; then it tries the other way: it is halved, and stays so when that costs nothing (less than a twentieth), since a
 * smaller window is less memory and less in front of a guest. After the next rest it tries to grow again.
 *
 * One such try lasts an epoch: at least two windows full of bytes and a tenth of a second.
 */

/** On a link that is no slower than that in a tenth of a second. */
export const SMALLEST_WINDOW = 4 * 2 ** 20;
export const LARGEST_WINDOW = 32 * 2 ** 20;

const FIRST_WINDOW = 2 ** 21;
const SMALLEST_ON_SLOW_LINKS = 2 ** 20;
const SHORTEST_EPOCH = 100;
const EPOCHS_OF_REST = 10;
/** A program that has just started gets faster by itself. */
const EPOCHS_OF_FIRST_REST = 4;
/** Answers that take more than this part of the quickest, and more than so many milliseconds more, waited for each other. */
const QUEUED = 1.25;
const QUEUED_MS = 1;

export class AdaptiveWindow {
  #size: number;
  readonly #adapts: boolean;
  #epochStart: number;
  #epochBytes = 0;
  /** Milliseconds that all answers of the epoch took, and their number. */
  #epochTook = 0;
  #epochAnswers = 0;
  /** Milliseconds that the quickest answer took. */
  #quickest = Number.POSITIVE_INFINITY;
  /** Bytes a millisecond in the epoch before the try, and in the best one since the size last changed; 0 while there was none. */
  #lastRate = 0;
  #bestRate = 0;
  #trying: "start" | "grow" | "shrink" | "rest" = "start";
  #nextTry: "grow" | "shrink" = "grow";
  #rest = EPOCHS_OF_FIRST_REST;

  /** @param fixed a size in bytes that never changes */
  constructor(now: number, fixed?: number) {
    this.#size = fixed ?? FIRST_WINDOW;
    this.#adapts = fixed === undefined;
    this.#epochStart = now;
  }

  /** In bytes. */
  get size(): number {
    return this.#size;
  }

  /** Notes bytes that have arrived, `took` milliseconds after they were asked for. */
  arrived(bytes: number, now: number, took: number): void {
    if (!this.#adapts) return;
    this.#epochBytes += bytes;
    this.#epochTook += took;
    this.#epochAnswers++;
    this.#quickest = Math.min(this.#quickest, took);
    const elapsed = now - this.#epochStart;
    const least = this.#trying === "start" ? 0 : SHORTEST_EPOCH;
    if (elapsed < least || this.#epochBytes < 2 * this.#size) return;
    const rate = this.#epochBytes / Math.max(elapsed, 1);
    if (this.#trying === "start") this.#goOnStarting(rate);
    else this.#endEpoch(rate);
    this.restart(now);
  }

  /** Begins a new epoch, after a time in which the window was not what held the stream back. */
  restart(now: number): void {
    this.#epochStart = now;
    this.#epochBytes = 0;
    this.#epochTook = 0;
    this.#epochAnswers = 0;
  }

  #goOnStarting(rate: number): void {
    const longest = Math.max(this.#quickest * QUEUED, this.#quickest + QUEUED_MS);
    const wide = this.#epochTook / this.#epochAnswers > longest || this.#size === LARGEST_WINDOW;
    if (!wide || this.#size < smallest(rate)) this.#size *= 2;
    else this.#trying = "rest";
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
      this.#try("grow", rate);
    } else if (--this.#rest < 0) {
      this.#try(this.#nextTry, rate);
    }
    this.#lastRate = rate;
    this.#bestRate = Math.max(this.#bestRate, rate);
  }

  #try(way: "grow" | "shrink", rate: number): void {
    const size = way === "grow" ? this.#size * 2 : this.#size / 2;
    if (size > LARGEST_WINDOW || size < smallest(rate)) {
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

/** @param rate bytes a millisecond */
function smallest(rate: number): number {
  return Math.max(SMALLEST_ON_SLOW_LINKS, Math.min(SMALLEST_WINDOW, rate * SHORTEST_EPOCH));
}
