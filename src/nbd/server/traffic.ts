/**
 * What clients have asked for, and how long they waited: from when a request was there, of a write with all of its data, until its reply
 * went to the kernel. Counted for each connection. Counting what is answered on the spot takes two additions a request, and one more for
 * all that came together: they went together too.
 */
import { type Clock, LatencyHistogram } from "../../block/index.ts";
import { COMMAND } from "../protocol.ts";
import type { Operation } from "./operation.ts";

/** Microseconds; percentiles are at most a sixteenth too high, and 0 where nothing was counted. */
export interface LatencySummary {
  /** Of all together. */
  readonly totalUs: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
}

/** Plain data. What was answered with an error counts as an error, and as nothing else. */
export interface TrafficFigures {
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly other: number;
  readonly errors: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly readLatency: LatencySummary;
  readonly writeLatency: LatencySummary;
}

export class Traffic {
  readonly readLatency = new LatencyHistogram();
  readonly writeLatency = new LatencyHistogram();
  /** Milliseconds of all of those. */
  readMs = 0;
  writeMs = 0;
  flushes = 0;
  other = 0;
  errors = 0;
  readBytes = 0;
  writtenBytes = 0;
  #unsent = 0;

  /** Requests that have been answered. */
  get requests(): number {
    return this.readLatency.count + this.writeLatency.count + this.flushes + this.other + this.errors;
  }

  /** A read has been answered on the spot; what was read goes out with what else came with it. */
  readNow(length: number): void {
    this.#unsent++;
    this.readBytes += length;
  }

  /** The reads since the last call have gone out. @param since when they came */
  sentReads(clock: Clock, since: number): void {
    if (this.#unsent === 0) return;
    const took = clock.now() - since;
    this.readLatency.record(took, this.#unsent);
    this.readMs += took * this.#unsent;
    this.#unsent = 0;
  }

  /** @param now on the clock of `operation.since` */
  answered({ command, error, length, since }: Operation, now: number): void {
    const took = now - since;
    if (error !== undefined) this.errors++;
    else if (command === COMMAND.READ) {
      this.readLatency.record(took);
      this.readMs += took;
      this.readBytes += length;
    } else if (command === COMMAND.WRITE) {
      this.writeLatency.record(took);
      this.writeMs += took;
      this.writtenBytes += length;
    } else if (command === COMMAND.FLUSH) this.flushes++;
    else this.other++;
  }

  add(more: Traffic): void {
    this.readLatency.add(more.readLatency.counts);
    this.writeLatency.add(more.writeLatency.counts);
    this.#combine(more, 1);
  }

  /** @param earlier what this was once */
  subtract(earlier: Traffic): void {
    this.readLatency.subtract(earlier.readLatency.counts);
    this.writeLatency.subtract(earlier.writeLatency.counts);
    this.#combine(earlier, -1);
  }

  #combine({ readMs, writeMs, flushes, other, errors, readBytes, writtenBytes }: Traffic, sign: 1 | -1): void {
    this.readMs += sign * readMs;
    this.writeMs += sign * writeMs;
    this.flushes += sign * flushes;
    this.other += sign * other;
    this.errors += sign * errors;
    this.readBytes += sign * readBytes;
    this.writtenBytes += sign * writtenBytes;
  }

  figures(): TrafficFigures {
    const { readLatency, writeLatency, flushes, other, errors, readBytes, writtenBytes } = this;
    return {
      reads: readLatency.count,
      writes: writeLatency.count,
      flushes,
      other,
      errors,
      readBytes,
      writtenBytes,
      readLatency: summary(readLatency, this.readMs),
      writeLatency: summary(writeLatency, this.writeMs),
    };
  }
}

/** Microseconds that a part of all took at most; 0 when there were none. */
export function percentileUs(times: LatencyHistogram, part: number): number {
  return Math.round((times.percentile(part) ?? 0) * 1000);
}

function summary(times: LatencyHistogram, ms: number): LatencySummary {
  return {
    totalUs: Math.round(ms * 1000),
    p50Us: percentileUs(times, 0.5),
    p90Us: percentileUs(times, 0.9),
    p99Us: percentileUs(times, 0.99),
  };
}
