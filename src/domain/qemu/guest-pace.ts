/**
 * The fill is paced by what the guest feels. Twice a second QEMU is asked how many reads and writes of the guest have ended on the disk, and how
 * long they took together: the mean of that half second. What it is in calm is measured at the start and every minute, for half a
 * second in which the stream has hardly anything under way.
 *
 * When requests take more than twice as long as in calm, and at least a fifth of a millisecond more, calm is measured anew. If it is better by
 * a fifth than what was felt just before, that was the stream: what it may have under way is halved. If not, it was not the stream (the
 * guest reads what is far away, or much at once), which is left alone for ten seconds then. While the guest is well the stream may have
 * more and more again, an eighth each time, and for a guest that does nothing all at once.
 */
import type { Clock } from "../../block/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { Overlay } from "./locate-overlay.ts";

/** What a guest has had of a disk since its QEMU was started. */
export interface GuestIo {
  readonly operations: number;
  readonly milliseconds: number;
}

/** Asks QEMU for it; undefined for a device that it tells nothing of. */
export async function guestIo(qmp: QmpClient, { qdev }: Pick<Overlay, "qdev">): Promise<GuestIo | undefined> {
  const stats = (await qmp.execute("query-blockstats", {})).find((device) => device.qdev === qdev);
  return stats && { operations: stats.operations, milliseconds: stats.nanoseconds / 1e6 };
}

/** What is paced: a stream job. */
export interface Paced {
  /** Bytes that it may have under way, by what it knows itself. */
  readonly window: number;
  /** @param bytes undefined for no bound */
  setCeiling(bytes: number | undefined): void;
}

export const SAMPLE_MS = 500;
/** Fewer requests in half a second say nothing. */
const FEWEST = 4;
const TROUBLED = 2;
const TROUBLED_MS = 0.2;
const HELPED = 0.8;
const SAMPLES_OF_REST = 20;
const SAMPLES_BETWEEN_CALM = 120;
const GROWTH = 1.125;
const LEAST = 2 ** 20;

export class GuestPace {
  #last: GuestIo | undefined;
  /** The mean in calm, in milliseconds; undefined as long as it was not measured. */
  #calm: number | undefined;
  #untilCalm = 0;
  #ceiling: number | undefined;
  /** While calm is measured: the ceiling before, and the mean if that was why. */
  #measuring: { readonly ceiling: number | undefined; readonly trouble?: number } | undefined;
  #rest = 0;

  /**
   * Takes what the guest has had, half a second after the last time.
   *
   * @param window bytes that the stream would have under way without a bound
   * @returns the bound; undefined for none
   */
  sample(io: GuestIo, window: number): number | undefined {
    const last = this.#last;
    this.#last = io;
    const operations = last === undefined ? 0 : io.operations - last.operations;
    if (last === undefined || operations < FEWEST) this.#letGo();
    else this.#look((io.milliseconds - last.milliseconds) / operations, window);
    if (this.#ceiling !== undefined && this.#ceiling >= window) this.#ceiling = undefined;
    return this.#ceiling;
  }

  #letGo(): void {
    this.#ceiling = undefined;
    this.#measuring = undefined;
  }

  #look(mean: number, window: number): void {
    if (this.#measuring !== undefined) this.#endMeasuring(mean, window);
    else if (--this.#untilCalm <= 0 || this.#calm === undefined) this.#measure();
    else this.#turn(mean, this.#calm, this.#ceiling ?? window);
  }

  #turn(mean: number, calm: number, now: number): void {
    if (this.#rest > 0) this.#rest--;
    if (mean <= calm * TROUBLED || mean <= calm + TROUBLED_MS) {
      if (this.#ceiling !== undefined) this.#ceiling = now * GROWTH;
    } else if (this.#rest === 0 && now > LEAST) {
      this.#measure(mean);
    }
  }

  #measure(trouble?: number): void {
    this.#measuring = { ceiling: this.#ceiling, ...(trouble !== undefined && { trouble }) };
    this.#ceiling = LEAST;
  }

  #endMeasuring(mean: number, window: number): void {
    const { ceiling, trouble } = this.#measuring!;
    this.#measuring = undefined;
    this.#calm = mean;
    this.#untilCalm = SAMPLES_BETWEEN_CALM;
    this.#ceiling = ceiling;
    if (trouble === undefined) return;
    if (mean <= trouble * HELPED) this.#ceiling = Math.max(LEAST, (ceiling ?? window) / 2);
    else this.#rest = SAMPLES_OF_REST;
  }
}

export interface PaceOptions {
  /** Undefined when it can't be told now. */
  readonly look: () => Promise<GuestIo | undefined>;
  readonly clock: Clock;
  /** The end of the stream. */
  readonly signal: AbortSignal;
}

/** Paces a stream until it ends; a QEMU that does not answer is none of its business. */
export async function paceByGuest(stream: Paced, { look, clock, signal }: PaceOptions): Promise<void> {
  const pace = new GuestPace();
  while (!signal.aborted) {
    const io = await look().catch(() => undefined);
    stream.setCeiling(io === undefined ? undefined : pace.sample(io, stream.window));
    await clock.sleep(SAMPLE_MS, signal);
  }
}
