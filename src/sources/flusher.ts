/**
 * When to flush a file. One flush is under way at a time, and one waits, for all who ask meanwhile; with nothing changed since
 * the last one there is none.
 *
 * After a failure all fail: the kernel may have dropped the pages that it could not write, and a second fsync would say
 * that all is well.
 */
export class Flusher {
  readonly #sync: () => Promise<void>;
  #changed: boolean;
  /** The last flush that was begun. */
  #flushed: Promise<void> = Promise.resolve();
  /** The one that begins when it has ended. */
  #next: Promise<void> | undefined;

  /**
   * @param sync makes all that is done so far durable
   * @param changed whether there may be something to flush from the start
   */
  constructor(sync: () => Promise<void>, changed: boolean) {
    this.#sync = sync;
    this.#changed = changed;
  }

  /** A change has been made: what began before does not cover it. */
  noteChange(): void {
    this.#changed = true;
  }

  /** Resolves when every change that was noted before the call is durable. */
  flush(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    if (!this.#changed) return this.#flushed;
    this.#next = this.#flushed.then(() => {
      this.#next = undefined;
      this.#changed = false;
      this.#flushed = this.#sync();
      return this.#flushed;
    });
    return this.#next;
  }
}
