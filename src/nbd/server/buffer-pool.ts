/**
 * Large buffers that are used again: memory that the kernel has to find and clear anew costs as much as what is done with it.
 * Small ones are not worth the trouble.
 */
import { DATA_HEADER_BYTES } from "./reply-codec.ts";
import { PIECE } from "./request.ts";

const LEAST = 128 * 1024;
const SIZE = PIECE + DATA_HEADER_BYTES;
const KEPT = 16;

export class BufferPool {
  readonly #free: ArrayBuffer[] = [];

  /** A buffer with whatever it held before. */
  take(length: number): Buffer {
    if (length < LEAST || length > SIZE) return Buffer.allocUnsafeSlow(length);
    const memory = this.#free.pop() ?? Buffer.allocUnsafeSlow(SIZE).buffer;
    return Buffer.from(memory, 0, length);
  }

  /** Takes back what nobody reads or writes any more. */
  give(bytes: Uint8Array): void {
    const { buffer } = bytes;
    if (buffer.byteLength === SIZE && this.#free.length < KEPT) this.#free.push(buffer as ArrayBuffer);
  }
}
