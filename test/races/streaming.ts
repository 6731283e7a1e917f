/** What fetches the rest in a race: a stream job or steps, begun, paused, broken off and begun again, and the closing of what is below when it is done. */
import { StreamdiskError } from "../../src/errors/index.ts";
import { overlayTarget, StreamJob, type StreamTarget, stepStream } from "../../src/stream/index.ts";
import { below, chance, oneOf, type Random } from "../support/draw.ts";
import type { RaceClock } from "./race-clock.ts";
import type { RaceDisk } from "./race-disk.ts";

type Until = (done: () => boolean) => Promise<void>;

export class Streaming {
  /** Set when it has ended as it never should. */
  failure: { readonly error: unknown } | undefined;
  readonly #disk: RaceDisk;
  readonly #random: Random;
  readonly #clock: RaceClock;
  readonly #target: StreamTarget;
  readonly #rate: number;
  readonly #ends: boolean;
  #job: StreamJob | undefined;
  #stop: AbortController | undefined;
  #hydrated = false;
  #resting = false;
  #hurries = false;

  constructor(disk: RaceDisk, random: Random, clock: RaceClock) {
    this.#disk = disk;
    this.#random = random;
    this.#clock = clock;
    const base = disk.layers.length > 1 && chance(random, 0.5) ? disk.layers.at(-1) : undefined;
    this.#target = overlayTarget(disk.overlay, {
      detectZeroes: chance(random, 0.9),
      ...(base !== undefined && { base: { node: base, reference: { reference: "base", format: "raw" } } }),
    });
    this.#rate = oneOf(random, [0, 1 / 200, 1 / 20]);
    this.#ends = chance(random, 0.75);
  }

  /** A moment passes. */
  step(): void {
    const random = this.#random;
    if (this.#hydrated || this.#resting || this.failure !== undefined) return;
    if (this.#stop === undefined) {
      if (this.#hurries || chance(random, this.#rate)) this.#begin();
      return;
    }
    if (chance(random, 1 / 300)) this.#stop.abort();
    if (this.#job === undefined || this.#hurries) return;
    if (chance(random, 1 / 100)) this.#job.pause();
    if (chance(random, 1 / 20)) this.#job.resume();
    if (chance(random, 1 / 50)) this.#job.setSpeed(oneOf(random, [Number.POSITIVE_INFINITY, 100_000, 10_000_000]));
  }

  #begin(): void {
    const stop = new AbortController();
    this.#stop = stop;
    const running = chance(this.#random, 0.75) ? this.#runJob(stop.signal) : this.#runSteps(stop.signal);
    running
      .then(() => this.#letGo())
      .catch((error: unknown) => {
        // One that was broken off may say that it could not make all durable.
        const mayBe = stop.signal.aborted && error instanceof StreamdiskError && error.row.retryable;
        if (!mayBe && !(error instanceof Error && error.name === "AbortError")) this.failure ??= { error };
      })
      .finally(() => {
        this.#job = undefined;
        this.#stop = undefined;
      });
  }

  #runJob(signal: AbortSignal): Promise<void> {
    const random = this.#random;
    const { grain } = this.#target;
    this.#job = new StreamJob(this.#target, {
      clock: this.#clock,
      signal,
      retryFor: Number.POSITIVE_INFINITY,
      chunk: grain * oneOf(random, [1, 2, 7, 32]),
      window: oneOf(random, [grain, 64 * 1024, 2 ** 20]),
    });
    return this.#job.run();
  }

  async #runSteps(signal: AbortSignal): Promise<void> {
    for (let offset = 0; ; ) {
      const length = 1 + below(this.#random, 200_000);
      try {
        const { next, done } = await stepStream(this.#target, { offset, length, signal });
        if (done) return;
        offset = next;
      } catch (error) {
        if (!(error instanceof StreamdiskError && error.row.retryable)) throw error;
        await this.#clock.sleep(500, signal);
      }
      signal.throwIfAborted();
    }
  }

  /** The link is dropped: what nothing links to any more is closed, whatever is still under way there. */
  async #letGo(): Promise<void> {
    this.#hydrated = true;
    for (const layer of this.#disk.layers) if (layer !== this.#disk.overlay.backing) await layer.close();
  }

  /** Makes the stream rest; false when it cannot. */
  async rest(until: Until): Promise<boolean> {
    if (this.#stop !== undefined && this.#job === undefined) return false;
    this.#resting = true;
    const job = this.#job;
    job?.pause();
    await until(() => job === undefined || ["paused", "completed", "cancelled", "failed"].includes(job.progress.state));
    return true;
  }

  resume(): void {
    this.#resting = false;
    this.#job?.resume();
  }

  /** From now on it is to come to its end. */
  hurry(): void {
    if (!this.#ends) return;
    this.#hurries = true;
    this.#job?.resume();
    this.#job?.setSpeed(undefined);
  }

  /** Waits for the end, or breaks it off. */
  async finish(until: Until): Promise<void> {
    if (!this.#ends) this.#stop?.abort();
    this.#resting = !this.#ends;
    await until(() => this.#stop === undefined && (!this.#ends || this.#hydrated || this.failure !== undefined));
  }
}
