/**
 * What a flush may vouch for. A write that was answered and not flushed may be in the memory of a server process that is gone
 * with its connection, and no later flush knows of it. So once a connection has ended with such writes, or a server has
 * failed a flush (it may have dropped what it could not write), flushes fail for good.
 */
import { StreamdiskError } from "../../errors/index.ts";

export class UnflushedWrites {
  readonly #node: string;
  /** Writes that were answered, and how many of them a flush has covered. */
  #written = 0;
  #flushed = 0;
  #failed: Error | undefined;

  constructor(node: string) {
    this.#node = node;
  }

  get any(): boolean {
    return this.#written > this.#flushed;
  }

  noteWrite(): void {
    this.#written++;
  }

  noteConnectionEnd(error: Error): void {
    if (!this.any || this.#failed !== undefined) return;
    const message =
      `The connection to '${this.#node}' ended with writes that were answered and not flushed, which may be lost ` +
      `(${error.message}): write them again, to the disk opened anew`;
    this.#failed = new StreamdiskError("changed", message, { node: this.#node, operation: "flush" }, error);
  }

  noteFailedFlush(error: Error): void {
    this.#failed ??= error;
  }

  /** @throws what keeps every flush from vouching for anything */
  check(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  /** @returns what to call when a flush that begins now has succeeded */
  beginFlush(): () => void {
    const covered = this.#written;
    return () => {
      this.#flushed = Math.max(this.#flushed, covered);
    };
  }
}
