/**
 * A source that may not answer at all: a hung network file system. Each request has a time limit, after which it counts as
 * lost, and only so many are under way at once, since each that hangs holds a thread of the process's one pool.
 *
 * A request that was given up may still end some day and write into its buffer: so every request has a buffer of its own, and the
 * caller's is touched only in time. It keeps its slot until it really ends.
 */
import { type BlockNode, type Clock, type Extent, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

export interface TimedOptions {
  readonly timeoutMs: number;
  /** @default 2 */
  readonly slots?: number;
  readonly clock?: Clock;
}

export class Timed extends ReadOnlyFilter {
  readonly #timeoutMs: number;
  readonly #clock: Clock;
  #free: number;
  readonly #queue = new Set<() => void>();

  constructor(source: BlockNode, { timeoutMs, slots = 2, clock = systemClock }: TimedOptions) {
    super(source);
    this.#timeoutMs = timeoutMs;
    this.#clock = clock;
    this.#free = slots;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const bytes = new Uint8Array(target.length);
    await this.#inTime("read", offset, target.length, () => this.source.read(offset, bytes, signal));
    target.set(bytes);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#inTime("map", offset, length, () => this.source.extents(offset, length));
  }

  async #inTime<T>(operation: string, offset: number, length: number, act: () => Promise<T>): Promise<T> {
    const over = new AbortController();
    const late = this.#clock.sleep(this.#timeoutMs, over.signal).then((): never => {
      throw new StreamdiskError(
        "source-lost",
        `'${this.name}' did not answer within ${this.#timeoutMs} ms (${operation} ${length} bytes at ${offset})`,
        { node: this.name, operation, offset, length },
      );
    });
    late.catch(() => {});
    try {
      await this.#slot(late);
      const acting = act().finally(() => this.#release());
      acting.catch(() => {});
      return await Promise.race([acting, late]);
    } finally {
      over.abort();
    }
  }

  /** Waits for a slot, as long as there is time. */
  async #slot(late: Promise<never>): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    let granted: () => void = () => {};
    const turn = new Promise<void>((resolve) => {
      granted = resolve;
    });
    this.#queue.add(granted);
    try {
      await Promise.race([turn, late]);
    } catch (error) {
      // It may have been granted in the same moment.
      if (!this.#queue.delete(granted)) this.#release();
      throw error;
    }
  }

  #release(): void {
    for (const next of this.#queue) {
      this.#queue.delete(next);
      next();
      return;
    }
    this.#free++;
  }
}
