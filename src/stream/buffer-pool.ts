/**
 * Buffers that are used again. Their sizes are powers of two; those in use and those kept for later are together never more
 * than what was in use at one time.
 */
import { letGo } from "../block/index.ts";

const SMALLEST = 4096;

export class BufferPool {
  readonly #kept = new Map<number, Uint8Array[]>();
  #keptBytes = 0;
  #usedBytes = 0;
  #mostUsed = 0;

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

  give(buffer: Uint8Array): void {
    const size = buffer.length;
    this.#usedBytes -= size;
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
