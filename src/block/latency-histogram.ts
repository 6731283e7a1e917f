/**
 * How long things took, for questions such as "within what time were 99 of 100 done": counts in buckets, not the times themselves.
 *
 * Buckets are log-linear: each power of two of microseconds is cut into 16 of equal width, so that an answer is at most a sixteenth too
 * high, and a microsecond for the rounding; all up to 71 minutes have room in 464 of them. To record costs a few instructions and no
 * memory. Histograms of the same things in several places are added up.
 */

/** Buckets of a power of two: 2 ** 4. */
const BITS = 4;
const PER_POWER = 2 ** BITS;
/** Times are taken for as long at the most: what 32 bits hold. */
const LONGEST_US = 2 ** 32 - 1;
const BUCKETS = (32 - BITS + 1) * PER_POWER;

export class LatencyHistogram {
  readonly #counts: Float64Array;
  #count = 0;

  /** @param counts as another one gave them, also in another thread */
  constructor(counts?: Float64Array) {
    this.#counts = new Float64Array(BUCKETS);
    if (counts !== undefined) this.add(counts);
  }

  /** How many were recorded. */
  get count(): number {
    return this.#count;
  }

  /** A copy of what was counted, as plain data; to be read by this class alone. */
  get counts(): Float64Array {
    return this.#counts.slice();
  }

  /**
   * @param ms how long it took, in milliseconds
   * @param times how many took just that long
   */
  record(ms: number, times = 1): void {
    const bucket = bucketOf(Math.min(LONGEST_US, Math.max(0, Math.ceil(ms * 1000))));
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + times;
    this.#count += times;
  }

  /** Adds what was counted elsewhere. */
  add(counts: Float64Array): void {
    this.#combine(counts, 1);
  }

  /** Takes away what had been counted earlier. */
  subtract(counts: Float64Array): void {
    this.#combine(counts, -1);
  }

  #combine(counts: Float64Array, sign: 1 | -1): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const more = sign * (counts[bucket] ?? 0);
      this.#counts[bucket] = (this.#counts[bucket] ?? 0) + more;
      this.#count += more;
    }
  }

  /**
   * Within how long a part of all that was recorded was done.
   *
   * @param part 0.5 for the median, 0.99 for all but the slowest hundredth
   * @returns milliseconds, never too few; undefined when nothing was recorded
   */
  percentile(part: number): number | undefined {
    if (this.#count === 0) return undefined;
    let left = Math.max(1, Math.ceil(part * this.#count));
    let bucket = 0;
    for (; bucket < BUCKETS - 1; bucket++) {
      left -= this.#counts[bucket] ?? 0;
      if (left <= 0) break;
    }
    return endOf(bucket) / 1000;
  }
}

/** @param us a whole number of 32 bits at most */
function bucketOf(us: number): number {
  const power = 31 - Math.clz32(us);
  if (power < BITS) return us;
  return (power - BITS) * PER_POWER + (us >>> (power - BITS));
}

/** The longest time of a bucket, in whole microseconds. */
function endOf(bucket: number): number {
  if (bucket < PER_POWER) return bucket;
  const power = Math.floor(bucket / PER_POWER) - 1;
  return ((bucket % PER_POWER) + PER_POWER + 1) * 2 ** power - 1;
}
