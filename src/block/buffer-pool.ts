/**
 * Buffers that are used again. Their sizes are powers of two; those in use and those kept for later are together never more
 * than what was in use at one time.
 */
import { letGo } from "./let-go.ts";

const SMALLEST = 4096;

export class BufferPool {
  readonly #kept = new Map<number, Uint8Array[]>();
  #keptBytes = 0;
  #usedBytes = 0;
  #mostUsed = 0;
  readonly #mostKept: number;

  /** @param mostKept bytes that are kept for later at most */
  constructor(mostKept: number = Number.POSITIVE_INFINITY) {
    this.#mostKept = mostKept;
  }

  /** A buffer of at least `length` bytes, with whatever it held before. */
  take(length: number): Uint8Array {
    const size = 2 ** Math.ceil(Math.log2(Math.max(length, SMALLEST)));
    const kept = this.#kept.get(size)?.pop();
    if (kept !== undefined) this.#keptBytes -= size;
    this.#usedBytes += size;
    this.#mostUsed = Math.max(this.#mostUsed, this.#usedBytes);
    this.#trim();
    return kept ?? Buffer.allocUnsafeSlow(size);
  }

  /** @param buffer as `take` gave it; nobody reads or writes it any more */
  give(buffer: Uint8Array): void {
    const size = buffer.length;
    this.#usedBytes -= size;
    if (this.#keptBytes + size > this.#mostKept) {
      letGo(buffer);
      return;
    }
    this.#keptBytes += size;
    const list = this.#kept.get(size);
    if (list === undefined) this.#kept.set(size, [buffer]);
    else list.push(buffer);
  }

  /** A buffer of another size was asked for: some of those kept make room for it. */
  #trim(): void {
    for (const [size, list] of this.#kept) {
      while (this.#keptBytes > this.#mostUsed - this.#usedBytes) {
        const buffer = list.pop();
        if (buffer === undefined) break;
        this.#keptBytes -= size;
        letGo(buffer);
      }
    }
  }
}
