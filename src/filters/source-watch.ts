/**
 * Knows whether a source is alive, so that a dead one is asked by a probe alone and costs nobody else any time.
 *
 * The source is *lost* from the first request that it fails in a way that may pass, and *back* when a probe has had an answer from
 * it. In between every request fails at once, with the error that told of the loss; whether anybody waits and asks again
 * is for others to say (`hold.ts`, the stream job). All such failures have the code `source-lost`.
 *
 * A source that answers "input/output error" lives, and perhaps it has a bad spot: then it is lost only if it
 * answers nowhere else either. One that did not answer at all is back only when it has answered what it owes, since other
 * parts of it may be in some cache on the way.
 *
 * A source that is not the one it was (`changed`) is never back.
 *
 * Whoever cannot wait for a source that owes answers takes it for lost (`giveUp`).
 */
import { type BlockNode, type Clock, type Extent, systemClock, whileWanted } from "../block/index.ts";
import { type ErrorCode, StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

/** How a source is. */
export interface SourceHealth {
  readonly state: "ok" | "lost" | "changed";
  /** Since when, by the clock of the watch. */
  readonly since: number;
  /** Why it is not ok. */
  readonly error?: StreamdiskError;
}

/** A source that is lost. */
export interface SourceLoss {
  readonly since: number;
  /** What every request gets meanwhile. */
  readonly error: StreamdiskError;
  /** Resolves when the source is back, found to have changed, or closed. */
  readonly over: Promise<void>;
}

export interface SourceWatchOptions {
  readonly clock?: Clock;
  /** Called with each change. */
  readonly onHealth?: (health: SourceHealth) => void;
}

/** Failures that are the caller's, and say nothing of the source. */
const CALLERS: readonly ErrorCode[] = ["invalid-argument", "shutdown"];
const FIRST_PROBE_MS = 100;
const LONGEST_PROBE_MS = 5_000;
const PROBE_BYTES = 512;
/** Steps of this part of the whole never come back to where they were. */
const GOLDEN_SECTION = 0.6180339887498949;

interface Loss extends SourceLoss {
  readonly end: () => void;
  /** The place that it did not answer for. */
  readonly owed: number;
  /** It answers, with errors. */
  readonly answers: boolean;
}

export class SourceWatch extends ReadOnlyFilter {
  readonly #clock: Clock;
  readonly #onHealth: (health: SourceHealth) => void;
  #closed = false;
  #loss: Loss | undefined;
  #changed: StreamdiskError | undefined;
  #since: number;
  /** Ends the pause between two probes. */
  #hurry: AbortController | undefined;
  #checking: Promise<boolean> | undefined;
  #place = 0;
  /** Requests that it has not answered. */
  #owed = 0;
  /** Aborted when they are not waited for any more. */
  #stop = new AbortController();

  constructor(source: BlockNode, { clock = systemClock, onHealth = () => {} }: SourceWatchOptions = {}) {
    super(source);
    this.#clock = clock;
    this.#onHealth = onHealth;
    this.#since = clock.now();
  }

  get closed(): boolean {
    return this.#closed;
  }

  get health(): SourceHealth {
    const since = this.#since;
    if (this.#changed !== undefined) return { state: "changed", since, error: this.#changed };
    if (this.#loss !== undefined) return { state: "lost", since, error: this.#loss.error };
    return { state: "ok", since };
  }

  /** Set while the source is lost. */
  get loss(): SourceLoss | undefined {
    return this.#loss;
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const stop = signal === undefined ? this.#stop.signal : AbortSignal.any([signal, this.#stop.signal]);
    return this.#ask(offset, () => this.source.read(offset, target, stop));
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#ask(offset, () => whileWanted(this.source.extents(offset, length), this.#stop.signal));
  }

  /** What a link says of itself: that it is down, before any request has failed, or that it is up, so that a probe is worth it. */
  noteLink(up: boolean, error?: Error): void {
    if (up) this.#hurry?.abort();
    else if (error instanceof StreamdiskError) this.#judge(error, 0);
  }

  /** What it owes is waited for no longer: it is lost, until it answers. One that owes nothing is left alone. */
  giveUp(): void {
    if (this.#owed === 0) return;
    const stop = this.#stop;
    this.#stop = new AbortController();
    const message = `'${this.name}' has not answered ${this.#owed} requests, and cannot be waited for: its machine is to be stopped`;
    stop.abort(new StreamdiskError("source-lost", message, { node: this.name }));
  }

  async #ask<T>(offset: number, act: () => Promise<T>): Promise<T> {
    const known = this.#changed ?? this.#loss?.error;
    if (known !== undefined) throw known;
    this.#owed++;
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof StreamdiskError) || CALLERS.includes(error.code)) throw error;
      if (error.code === "io" && (await this.#livesElsewhere())) throw asLost(error);
      throw this.#judge(error, offset);
    } finally {
      this.#owed--;
    }
  }

  /** Draws the conclusion from a failure, and returns what its caller is to be told. */
  #judge(error: StreamdiskError, offset: number): StreamdiskError {
    if (this.#closed) return error;
    if (error.code === "changed") this.#change(error);
    else if (this.#changed === undefined && this.#loss === undefined) this.#lose(error, offset);
    return this.#changed ?? this.#loss?.error ?? asLost(error);
  }

  #lose(error: StreamdiskError, owed: number): void {
    let end: () => void = () => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#since = this.#clock.now();
    const loss = { since: this.#since, error: asLost(error), over, end, owed, answers: error.code === "io" };
    this.#loss = loss;
    this.#onHealth(this.health);
    void this.#probe(loss);
  }

  #change(error: StreamdiskError): void {
    if (this.#changed !== undefined) return;
    this.#changed = error;
    this.#end();
  }

  #end(): void {
    const loss = this.#loss;
    this.#loss = undefined;
    this.#since = this.#clock.now();
    loss?.end();
    this.#onHealth(this.health);
  }

  async #probe(loss: Loss): Promise<void> {
    for (let wait = FIRST_PROBE_MS; ; wait = Math.min(wait * 2, LONGEST_PROBE_MS)) {
      this.#hurry = new AbortController();
      await this.#clock.sleep(wait, this.#hurry.signal);
      if (this.#loss !== loss) return;
      const back = (await this.#answers(loss.owed)) || (loss.answers && (await this.#livesElsewhere()));
      if (this.#loss !== loss) return;
      if (back) return this.#end();
    }
  }

  /** Whether the source answers for some other place, which no cache is likely to hold. One look for all who ask at a time. */
  #livesElsewhere(): Promise<boolean> {
    this.#place = (this.#place + GOLDEN_SECTION) % 1;
    this.#checking ??= this.#answers(Math.floor(this.#place * this.length)).finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  async #answers(place: number): Promise<boolean> {
    const length = Math.min(PROBE_BYTES, this.length);
    const offset = Math.min(place - (place % PROBE_BYTES), this.length - length);
    try {
      await this.source.read(offset, new Uint8Array(length));
      return true;
    } catch (error) {
      if (error instanceof StreamdiskError && error.code === "changed") this.#change(error);
      return false;
    }
  }

  override async close(): Promise<void> {
    this.#closed = true;
    this.#loss?.end();
    this.#loss = undefined;
    this.#hurry?.abort();
    await super.close();
  }
}

/** The same failure, for those who tell by its code whether waiting may help. */
function asLost(error: StreamdiskError): StreamdiskError {
  if (error.code === "source-lost") return error;
  return new StreamdiskError("source-lost", error.message, error.context, error);
}
