/**
 * Buffers that are used again: their sizes are powers of two, and no more is kept than what one window needs.
 */
export class BufferPool {
  readonly #free = new Map<number, Uint8Array[]>();
  readonly #limit: number;
  #kept = 0;

  /** @param limit bytes to keep at most */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** A buffer of at least `length` bytes, with whatever it held before. */
  take(length: number): Uint8Array {
    const size = 2 ** Math.ceil(Math.log2(Math.max(length, 4096)));
    const buffer = this.#free.get(size)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#kept -= size;
    return buffer;
  }

  give(buffer: Uint8Array): void {
    if (this.#kept + buffer.length > this.#limit) return;
    let list = this.#free.get(buffer.length);
    if (list === undefined) {
      list = [];
      this.#free.set(buffer.length, list);
    }
    list.push(buffer);
    this.#kept += buffer.length;
  }
}
