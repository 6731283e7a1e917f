/**
 * What a disk has to do, second by second, for the last quarter of an hour of work. A second in which nothing happened is not kept, costs a
 * comparison, and a disk that has never been used has no memory for it.
 *
 * Samples have the time of day, and each is later than the one before. When the clock is set back by more than a little, those before
 * are of no known time any more and are forgotten.
 */
import { type Clock, systemClock } from "../block/index.ts";
import { percentileUs, type Traffic } from "../nbd/index.ts";
import type { LoadSample } from "./disk-spec.ts";

/** What is looked at. All of it only ever grows. */
export interface LoadSource {
  /** Requests of guests that have been answered. */
  readonly requests: number;
  /** Bytes that guest reads have fetched. */
  readonly fetchedBytes: number;
  /** Bytes that streams have fetched. */
  readonly streamedBytes: number;
  /** A copy. */
  traffic(): Traffic;
}

const SAMPLE_MS = 1000;
const KEPT = 900;
/** An older one does not say how it is now. */
const FRESH_MS = 2 * SAMPLE_MS;

const FIELDS = [
  "at",
  "reads",
  "writes",
  "readBytes",
  "writtenBytes",
  "fetchedBytes",
  "streamedBytes",
  "readP50Us",
  "readP99Us",
  "writeP99Us",
] as const satisfies readonly (keyof LoadSample)[];

export class LoadLog {
  readonly #source: LoadSource;
  readonly #clock: Clock;
  readonly #stop = new AbortController();
  /** A ring of samples, field by field. */
  #samples = new Float64Array(0);
  #count = 0;
  /** Up to when, and what had been done then. */
  #now: number;
  #traffic: Traffic;
  #fetched: number;
  #streamed: number;
  #lastAt = 0;
  /** The same on the clock that nobody sets. */
  #keptAt = 0;

  /** Looks on until it is stopped. */
  constructor(source: LoadSource, clock: Clock = systemClock) {
    this.#source = source;
    this.#clock = clock;
    this.#now = clock.now();
    this.#traffic = source.traffic();
    this.#fetched = source.fetchedBytes;
    this.#streamed = source.streamedBytes;
    void this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      await this.#clock.sleep(SAMPLE_MS, signal);
      if (signal.aborted) return;
      this.#look();
    }
  }

  stop(): void {
    this.#stop.abort();
  }

  #look(): void {
    const { requests, fetchedBytes, streamedBytes } = this.#source;
    const now = this.#clock.now();
    const perSecond = (count: number): number => Math.round((count * 1000) / (now - this.#now));
    const isIdle =
      requests === this.#traffic.requests && fetchedBytes === this.#fetched && streamedBytes === this.#streamed;
    if (!isIdle) {
      const lately = this.#source.traffic();
      lately.subtract(this.#traffic);
      this.#traffic.add(lately);
      const { readLatency, writeLatency } = lately;
      const time = Date.now();
      if (time < this.#lastAt - SAMPLE_MS) this.#forget();
      this.#keep({
        at: Math.max(this.#lastAt + 1, time),
        reads: perSecond(readLatency.count),
        writes: perSecond(writeLatency.count),
        readBytes: perSecond(lately.readBytes),
        writtenBytes: perSecond(lately.writtenBytes),
        fetchedBytes: perSecond(fetchedBytes - this.#fetched),
        streamedBytes: perSecond(streamedBytes - this.#streamed),
        readP50Us: percentileUs(readLatency, 0.5),
        readP99Us: percentileUs(readLatency, 0.99),
        writeP99Us: percentileUs(writeLatency, 0.99),
      });
      this.#fetched = fetchedBytes;
      this.#streamed = streamedBytes;
    }
    this.#now = now;
  }

  #keep(sample: LoadSample): void {
    if (this.#samples.length === 0) this.#samples = new Float64Array(KEPT * FIELDS.length);
    this.#samples.set(
      FIELDS.map((field) => sample[field]),
      (this.#count % KEPT) * FIELDS.length,
    );
    this.#count++;
    this.#lastAt = sample.at;
    this.#keptAt = this.#clock.now();
  }

  #forget(): void {
    this.#count = 0;
    this.#lastAt = 0;
  }

  /** The samples later than a moment (in milliseconds since 1970), in order; all if it is later than all: then the clock was set. */
  since(moment: number): LoadSample[] {
    const isOfThisClock = moment <= this.#lastAt;
    const found: LoadSample[] = [];
    for (let index = this.#count - 1; index >= Math.max(0, this.#count - KEPT); index--) {
      const sample = this.#sample(index);
      if (isOfThisClock && sample.at <= moment) break;
      found.push(sample);
    }
    return found.reverse();
  }

  /** The last one, if it says how it is now. */
  get last(): LoadSample | undefined {
    const isFresh = this.#count > 0 && this.#clock.now() - this.#keptAt <= FRESH_MS;
    return isFresh ? this.#sample(this.#count - 1) : undefined;
  }

  #sample(index: number): LoadSample {
    const at = (index % KEPT) * FIELDS.length;
    return Object.fromEntries(FIELDS.map((field, n) => [field, this.#samples[at + n]])) as unknown as LoadSample;
  }
}
