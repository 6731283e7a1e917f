/**
 * A source that may not answer at all: a hung network file system. Each request has a time limit, after which it counts as
 * lost, and only so many are under way at once, since each that hangs holds a thread of the process's one pool.
 *
 * A request that was given up may still end some day and write into its buffer: so every read has a buffer of its own, and the
 * caller's is touched only in time. It keeps its slot until it really ends, however late.
 *
 * The time limit covers the wait for a slot too: behind requests that hang there is nothing to be had.
 */
import { type BlockNode, type Clock, type Extent, letGo, systemClock } from "../block/index.ts";
import { type ErrorContext, StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

export interface TimedOptions {
  readonly timeoutMs: number;
  /** @default 2 */
  readonly slots?: number;
  readonly clock?: Clock;
}

/** Somebody who waits for a slot. */
interface Waiting {
  readonly grant: () => void;
  readonly refuse: (reason: unknown) => void;
}

export class Timed extends ReadOnlyFilter {
  readonly #timeoutMs: number;
  readonly #clock: Clock;
  #free: number;
  readonly #queue = new Set<Waiting>();
  #closed = false;

  constructor(source: BlockNode, { timeoutMs, slots = 2, clock = systemClock }: TimedOptions) {
    super(source);
    this.#timeoutMs = timeoutMs;
    this.#clock = clock;
    this.#free = slots;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const bytes = new Uint8Array(target.length);
    const what = { node: this.name, operation: "read", offset, length: target.length };
    await this.#inTime(what, () => this.source.read(offset, bytes, signal), signal);
    target.set(bytes);
    letGo(bytes);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    const what = { node: this.name, operation: "map", offset, length };
    return this.#inTime(what, () => this.source.extents(offset, length));
  }

  async #inTime<T>(what: ErrorContext, act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { over, end } = this.#limit(what, signal);
    try {
      await this.#slot(over);
      return await Promise.race([this.#act(act), over]);
    } finally {
      end();
    }
  }

  /** `over` rejects when the time is, or when nobody wants the answer any more. */
  #limit(what: ErrorContext, signal: AbortSignal | undefined): { over: Promise<never>; end: () => void } {
    const ended = new AbortController();
    const over = new Promise<never>((_, reject) => {
      void this.#clock.sleep(this.#timeoutMs, ended.signal).then(() => {
        if (!ended.signal.aborted) reject(this.#late(what));
      });
      const abort = (): void => reject(signal?.reason);
      if (signal?.aborted) abort();
      signal?.addEventListener("abort", abort, { once: true, signal: ended.signal });
    });
    over.catch(() => {});
    return { over, end: () => ended.abort() };
  }

  #late(what: ErrorContext): StreamdiskError {
    const { operation, length, offset } = what;
    const message = `'${this.name}' did not answer within ${this.#timeoutMs} ms (${operation} of ${length} bytes at ${offset})`;
    return new StreamdiskError("source-lost", message, what);
  }

  async #act<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } finally {
      this.#release();
    }
  }

  /** Waits for a slot, as long as there is time. */
  async #slot(over: Promise<never>): Promise<void> {
    if (this.#closed) throw this.#shutDown();
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    let waiting: Waiting | undefined;
    const turn = new Promise<void>((grant, refuse) => {
      waiting = { grant, refuse };
      this.#queue.add(waiting);
    });
    try {
      await Promise.race([turn, over]);
    } catch (error) {
      // It may have been granted in the same moment.
      if (!this.#queue.delete(waiting as Waiting) && !this.#closed) this.#release();
      throw error;
    }
  }

  #release(): void {
    for (const next of this.#queue) {
      this.#queue.delete(next);
      next.grant();
      return;
    }
    this.#free++;
  }

  #shutDown(): StreamdiskError {
    return new StreamdiskError("shutdown", `'${this.name}' is closed`, { node: this.name });
  }

  /** Waits no longer than for a request: there is nothing to be lost in a source. */
  override async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#queue) waiting.refuse(this.#shutDown());
    this.#queue.clear();
    const { over, end } = this.#limit({ node: this.name, operation: "close" }, undefined);
    try {
      await Promise.race([super.close(), over]);
    } catch (error) {
      if (!(error instanceof StreamdiskError) || error.code !== "source-lost") throw error;
    } finally {
      end();
    }
  }
}
