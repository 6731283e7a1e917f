/**
 * What happens when a source dies: the policy around it (design, "Source death").
 *
 * The source is *lost* from the first request that fails in a way that may pass, and *back* from the first that succeeds. While it is
 * lost a probe asks for a few bytes, with growing intervals, and requests are held: they wait until it is back, and are sent
 * again. `holdMs` counts from the moment of the loss, for all requests together; after that, and whenever more than `mostHeld` would wait,
 * requests fail at once. So a dead source costs its time once, not once a read.
 *
 * A failure that cannot pass (a source that has changed) is nobody's to wait for.
 */
import { type BlockNode, type Clock, type Extent, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

/** What to do with requests that a lost source cannot answer. */
export interface SourcePolicy {
  /** How long they are held, in milliseconds from the loss: 0 fails them at once, Infinity never. */
  readonly holdMs: number;
  /** What comes after: an error alone, or an error and the machine's pause (`onPause`). */
  readonly then: "error" | "pause";
}

/** How a source is. */
export interface SourceHealth {
  readonly state: "ok" | "lost";
  /** Since when, by the clock of the filter. */
  readonly since: number;
  /** Why it is lost. */
  readonly error?: StreamdiskError;
  /** Requests that wait. */
  readonly held: number;
}

export interface HoldOptions {
  readonly policy: SourcePolicy;
  /** Requests that may wait at a time; more get the second policy. @default 8 */
  readonly mostHeld?: number;
  readonly clock?: Clock;
  readonly onHealth?: (health: SourceHealth) => void;
  /** The second policy is "pause", and a request has just met it. */
  readonly onPause?: () => void;
}

const FIRST_PROBE_MS = 100;
const LONGEST_PROBE_MS = 5_000;
const PROBE_BYTES = 512;

export class Hold extends ReadOnlyFilter {
  readonly #options: HoldOptions;
  readonly #clock: Clock;
  readonly #closing = new AbortController();
  #lost: { readonly since: number; readonly error: StreamdiskError } | undefined;
  #okSince: number;
  #held = 0;
  /** Wakes those who wait: the source is back, or the time is over. */
  #waiters: (() => void)[] = [];

  constructor(source: BlockNode, options: HoldOptions) {
    super(source);
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#okSince = this.#clock.now();
  }

  get health(): SourceHealth {
    const held = this.#held;
    if (this.#lost === undefined) return { state: "ok", since: this.#okSince, held };
    return { state: "lost", since: this.#lost.since, error: this.#lost.error, held };
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#patiently(() => this.source.read(offset, target, signal), signal);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#patiently(() => this.source.extents(offset, length));
  }

  async #patiently<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (;;) {
      signal?.throwIfAborted();
      // Nobody asks a source that is known to be lost but the probe.
      if (this.#lost === undefined) {
        try {
          const result = await act();
          this.#back();
          return result;
        } catch (error) {
          if (!mayPass(error)) throw error;
          this.#lose(error);
        }
      }
      await this.#wait(signal);
    }
  }

  #lose(error: StreamdiskError): void {
    if (this.#lost !== undefined) return;
    this.#lost = { since: this.#clock.now(), error };
    this.#tell();
    void this.#probe();
    void this.#clock.sleep(this.#options.policy.holdMs, this.#closing.signal).then(() => this.#wake());
  }

  #back(): void {
    if (this.#lost === undefined) return;
    this.#lost = undefined;
    this.#okSince = this.#clock.now();
    this.#wake();
    this.#tell();
  }

  async #probe(): Promise<void> {
    const bytes = new Uint8Array(Math.min(PROBE_BYTES, this.length));
    for (let wait = FIRST_PROBE_MS; this.#lost !== undefined; wait = Math.min(wait * 2, LONGEST_PROBE_MS)) {
      await this.#clock.sleep(wait, this.#closing.signal);
      if (this.#closing.signal.aborted) return;
      try {
        await this.source.read(0, bytes);
        this.#back();
      } catch (error) {
        // It is there, and not what it was: whoever asks is told.
        if (!mayPass(error)) this.#back();
      }
    }
  }

  /** Waits for the source or for the end of patience, or throws when there is no more of it. */
  async #wait(signal: AbortSignal | undefined): Promise<void> {
    const lost = this.#lost;
    if (lost === undefined) return;
    const { policy, mostHeld = 8, onPause } = this.#options;
    const over = this.#clock.now() >= lost.since + policy.holdMs;
    if (over || this.#held >= mostHeld || this.#closing.signal.aborted) {
      if (policy.then === "pause") onPause?.();
      throw lost.error;
    }
    this.#held++;
    const wake = () => this.#wake();
    signal?.addEventListener("abort", wake, { once: true });
    try {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    } finally {
      signal?.removeEventListener("abort", wake);
      this.#held--;
    }
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  #tell(): void {
    this.#options.onHealth?.(this.health);
  }

  /** Whoever waits gets the error. */
  override async close(): Promise<void> {
    this.#closing.abort();
    this.#wake();
    await super.close();
  }
}

/** Failures that waiting may cure. */
function mayPass(error: unknown): error is StreamdiskError {
  return error instanceof StreamdiskError && ["source-lost", "io", "protocol"].includes(error.code);
}
