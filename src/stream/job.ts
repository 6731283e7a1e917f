/**
 * The stream job: fetches what a disk lacks and then breaks the link to what is below.
 *
 *     created -> running -> (paused | waiting) -> completed | cancelled | failed
 *
 * It works in rounds. A round takes a tally of what is missing. If that is nothing, it makes all durable and finishes the
 * disk; otherwise it makes a pass (`pump.ts`). So the round after the last fetch is also the verification, and
 * allocation in the image is the only cursor: a round that ended early, in this process or another, is just begun again.
 *
 * Whatever ends a round early (a pause, an error, its user), what was fetched is made durable before anything else. After
 * an error that may pass, the job waits, with growing intervals, for `retryFor` milliseconds in all since it last got anywhere.
 */

import { type Clock, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { StreamProgress, StreamReason, StreamState } from "./progress.ts";
import { ProgressFeed, RateMeter } from "./progress-feed.ts";
import { Pump } from "./pump.ts";
import { cancelledAt, type Failure, mayPass, reasonOf, stoppedBy } from "./stopped.ts";
import type { StreamTarget } from "./target.ts";

export interface StreamOptions {
  /** Bytes under way at once. Absent: it adapts (`window.ts`). */
  readonly window?: number;
  /** Bytes of one request. @default 1 MiB */
  readonly chunk?: number;
  /** Bytes a second. Absent: as fast as it goes. */
  readonly speed?: number;
  /** Milliseconds that an error which may pass is waited for. @default 0 */
  readonly retryFor?: number;
  readonly signal?: AbortSignal;
  /** Room where the image lies, in bytes; undefined when it cannot be known. */
  readonly freeSpace?: () => Promise<number | undefined>;
  /** @default the system's */
  readonly clock?: Clock;
}

const DEFAULT_CHUNK = 2 ** 20;
const PROGRESS_MS = 200;
/** A second's worth: what holds it back is to be known soon. */
const WAIT_SAMPLES = 6;
/** Milliseconds of a second that it waits for its speed when that is what it waits for. */
const MOSTLY = 900;
const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 10_000;

export class StreamJob {
  readonly #target: StreamTarget;
  readonly #options: StreamOptions;
  readonly #clock: Clock;
  readonly #pump: Pump;
  readonly #feed = new ProgressFeed();
  readonly #meter = new RateMeter();
  readonly #waits = new RateMeter(WAIT_SAMPLES);
  readonly #stop = new AbortController();
  readonly #warnings: string[] = [];
  #state: StreamState = "created";
  #reason: StreamReason | undefined;
  #running: Promise<void> | undefined;
  #paused = false;
  #resumed: (() => void) | undefined;
  #spaceChecked = false;
  /** Before the last whole pass: what was missing, and what had been populated. */
  #before = { missing: Number.POSITIVE_INFINITY, populated: 0 };
  /** The first failure of a row between which nothing was fetched: when, and what was missing. */
  #lost: { readonly at: number; readonly missing: number } | undefined;
  #retryIn = 0;

  constructor(target: StreamTarget, options: StreamOptions = {}) {
    const { chunk = DEFAULT_CHUNK, clock = systemClock } = options;
    this.#target = target;
    this.#options = options;
    this.#clock = clock;
    for (const name of ["window", "chunk", "speed"] as const) mustBePositive(name, options[name]);
    const request = Math.min(chunk, options.window ?? chunk);
    this.#pump = new Pump(target, {
      chunk: Math.ceil(request / target.grain) * target.grain,
      window: options.window,
      speed: options.speed,
      clock,
      signal: this.#stop.signal,
    });
  }

  /** How far it is, now. */
  get progress(): StreamProgress {
    const { tally, copied, offset, room } = this.#pump;
    const rate = this.#state === "running" ? this.#meter.rate : 0;
    return {
      state: this.#state,
      ...(this.#reason !== undefined && { reason: this.#reason }),
      offset,
      length: this.#target.length,
      localBytes: tally.local,
      zeroBytes: tally.zero,
      missingBytes: tally.missing,
      copiedBytes: copied,
      rate,
      ...(rate > 0 && { eta: tally.fetch / rate }),
      throttled: this.#state === "running" && this.#waits.rate >= MOSTLY,
      window: room,
      warnings: this.#warnings,
    };
  }

  /**
   * Runs the job and tells how far it is. The last progress has the state `completed`, `cancelled` or `failed`; after
   * `failed` the iterator throws the StreamdiskError, after `cancelled` the reason of the signal. Leaving the loop cancels the
   * job and waits until it has stopped. For one reader.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamProgress, void, undefined> {
    const running = this.run();
    // Whoever still reads when the job has ended gets the error from the last line.
    running.catch(() => {});
    let ended = false;
    try {
      yield* this.#feed.read();
      ended = true;
    } finally {
      if (!ended) {
        this.cancel();
        await running.catch(() => {});
      }
    }
    await running;
  }

  /** Starts the job, unless it runs already; settles with its end. */
  run(): Promise<void> {
    this.#running ??= this.#main();
    return this.#running;
  }

  /**
   * Changes the rate limit, at any time.
   *
   * @param speed bytes a second; undefined for none
   */
  setSpeed(speed: number | undefined): void {
    mustBePositive("speed", speed);
    this.#pump.setSpeed(speed);
  }

  /** Bytes that it may have under way at once by what it knows itself. */
  get window(): number {
    return this.#pump.window.size;
  }

  /** Bounds what is under way at once, at any time; undefined for no bound. For who knows what else there is to be done. */
  setCeiling(bytes: number | undefined): void {
    mustBePositive("ceiling", bytes);
    this.#pump.setCeiling(bytes);
  }

  /** Fetches nothing more once what is under way is done and durable. */
  pause(): void {
    this.#paused = true;
    this.#pump.halt();
  }

  resume(): void {
    this.#paused = false;
    this.#pump.resume();
    this.#resumed?.();
  }

  /** Ends the job early. What was fetched stays. */
  cancel(reason: unknown = new DOMException("The stream was cancelled.", "AbortError")): void {
    this.#stop.abort(reason);
    this.#resumed?.();
  }

  async #main(): Promise<void> {
    const { signal } = this.#options;
    const cancel = (): void => this.cancel(signal?.reason);
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted) cancel();
    const over = new AbortController();
    const ticking = this.#tick(over.signal);
    try {
      const end = await this.#rounds();
      if (end === "completed") this.#become("completed");
      else if (end === "cancelled") this.#endCancelled();
      else this.#endFailed(end);
    } finally {
      signal?.removeEventListener("abort", cancel);
      over.abort();
      await ticking;
      this.#feed.end();
    }
  }

  async #rounds(): Promise<"completed" | "cancelled" | Failure> {
    for (;;) {
      const outcome = await this.#round().catch((error: unknown): Failure => ({ error }));
      if (outcome === "completed") return outcome;
      const unsafe = await this.#settle();
      if (this.#stop.signal.aborted) return unsafe ?? "cancelled";
      const failure = outcome ?? unsafe;
      if (failure === undefined) await this.#rest();
      else if (!(await this.#wait(failure))) return failure;
    }
  }

  async #round(): Promise<"completed" | Failure | undefined> {
    await this.#pump.survey();
    if (this.#stop.signal.aborted || this.#paused) return undefined;
    await this.#checkSpace();
    this.#sample();
    this.#become("running");
    const { missing } = this.#pump.tally;
    if (missing === 0) {
      await this.#pump.durability.settle();
      await this.#target.finish();
      return "completed";
    }
    // What was a hole may be data the next time (a file system may think so once it was read), so that a round may find
    // something new; but one that finds as much missing after a whole pass did nothing about it would go on for ever.
    const { populated } = this.#pump;
    if (missing >= this.#before.missing && populated === this.#before.populated) {
      const message = `'${this.#target.name}' still lacks ${missing} bytes after all of them were fetched: check the image`;
      throw new StreamdiskError("invalid-image", message, { node: this.#target.name });
    }
    const failure = await this.#pump.pass();
    if (failure === undefined && !this.#stop.signal.aborted && !this.#paused) this.#before = { missing, populated };
    return failure;
  }

  /** Makes what was fetched durable. */
  async #settle(): Promise<Failure | undefined> {
    try {
      await this.#pump.durability.settle();
      return undefined;
    } catch (error) {
      return { error };
    }
  }

  /** Waits until a failure may have passed; false when it is not worth it. */
  async #wait(failure: Failure): Promise<boolean> {
    const { retryFor = 0 } = this.#options;
    const now = this.#clock.now();
    const { missing } = this.#pump.tally;
    if (this.#lost === undefined || missing < this.#lost.missing) {
      this.#lost = { at: now, missing };
      this.#retryIn = FIRST_RETRY_MS / 2;
    }
    const left = this.#lost.at + retryFor - now;
    if (!mayPass(failure) || left <= 0) return false;
    this.#retryIn = Math.min(this.#retryIn * 2, LONGEST_RETRY_MS, left);
    this.#become("waiting", { ...reasonOf(failure), retryIn: this.#retryIn });
    await this.#clock.sleep(this.#retryIn, this.#stop.signal);
    return true;
  }

  /** Holds still while the job is paused. */
  async #rest(): Promise<void> {
    if (this.#paused) this.#become("paused");
    while (this.#paused && !this.#stop.signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#resumed = resolve;
      });
    }
  }

  async #checkSpace(): Promise<void> {
    if (this.#spaceChecked) return;
    this.#spaceChecked = true;
    const free = await this.#options.freeSpace?.();
    const { fetch } = this.#pump.tally;
    if (free === undefined || free >= fetch) return;
    this.#warnings.push(
      `Up to ${fetch} bytes are to be fetched into '${this.#target.name}', and its file system has room for ${free}`,
    );
  }

  /** Tells progress and does what is due by the clock, until the end. */
  async #tick(over: AbortSignal): Promise<void> {
    while (!over.aborted) {
      await this.#clock.sleep(PROGRESS_MS, over);
      if (over.aborted || this.#state !== "running") continue;
      this.#pump.durability.tick();
      this.#sample();
      this.#feed.push(this.progress);
    }
  }

  #sample(): void {
    const now = this.#clock.now();
    this.#meter.sample(now, this.#pump.copied);
    this.#waits.sample(now, this.#pump.waitedMs);
  }

  #become(state: StreamState, reason?: StreamReason): void {
    this.#state = state;
    this.#reason = reason;
    this.#feed.push(this.progress);
  }

  #endCancelled(): never {
    this.#become("cancelled", { code: "cancelled", message: cancelledAt(this.#target, this.#pump.offset) });
    throw this.#stop.signal.reason;
  }

  #endFailed(failure: Failure): never {
    const error = stoppedBy(failure, this.#target, this.#pump.offset);
    this.#become("failed", { ...reasonOf(failure), message: error.message });
    throw error;
  }
}

function mustBePositive(name: string, value: number | undefined): void {
  if (value === undefined || value > 0) return;
  throw new StreamdiskError("invalid-argument", `The ${name} of a stream must be greater than 0; it is ${value}`);
}
