/**
 * Replies on their way out. Small ones are put together in a slab, so that a batch of requests is answered with one write;
 * large ones go by reference. A slab is used again as soon as the kernel has taken it, which is at once unless the client
 * does not read.
 */
import type { BufferPool } from "./buffer-pool.ts";
import type { Link } from "./link.ts";
import { viewOf } from "./reply-codec.ts";
import type { Room } from "./room.ts";

const SLAB_BYTES = 256 * 1024;
/** What is smaller is copied: a part of a write costs about as much. */
const COPY_MOST = 16 * 1024;
const KEPT_SLABS = 8;
const NONE: readonly Buffer[] = [];

/** The largest reply that fits into a slab. */
export const LARGEST_IN_SLAB: number = SLAB_BYTES;

export interface Slab {
  readonly bytes: Buffer;
  readonly view: DataView;
}

/** Slabs that nobody fills just now. One lasts for all connections whose clients read what they asked for. */
export class SlabPool {
  readonly #free: Slab[] = [];

  take(): Slab {
    const slab = this.#free.pop();
    if (slab !== undefined) return slab;
    const bytes = Buffer.allocUnsafeSlow(SLAB_BYTES);
    return { bytes, view: viewOf(bytes) };
  }

  give(slab: Slab): void {
    if (this.#free.length < KEPT_SLABS) this.#free.push(slab);
  }
}

/** Where memory for replies comes from and goes to. */
export interface OutboxMemory {
  readonly slabs: SlabPool;
  readonly buffers: BufferPool;
}

export class Outbox {
  readonly #link: Link;
  readonly #slabs: SlabPool;
  readonly #buffers: BufferPool;
  readonly #room: Room;
  readonly #onTaken: () => void;
  #slab: Slab | undefined;
  #fill = 0;
  /** Up to where the slab has become part of `#parts`. */
  #sealed = 0;
  #parts: Buffer[] = [];
  /** Those of the parts that are buffers of their own. */
  #large: Buffer[] = [];
  /** Bytes of room that the parts give back when they have been taken. */
  #releasing = 0;
  #flushing: NodeJS.Immediate | undefined;

  /** @param onTaken called when the kernel has taken what it would not take at once */
  constructor(link: Link, { slabs, buffers }: OutboxMemory, room: Room, onTaken: () => void) {
    this.#link = link;
    this.#slabs = slabs;
    this.#buffers = buffers;
    this.#room = room;
    this.#onTaken = onTaken;
  }

  /** A slab with room for `length` bytes at `position`; they count once they are committed. */
  reserve(length: number): Slab {
    if (this.#fill + length > SLAB_BYTES) this.flush();
    this.#slab ??= this.#slabs.take();
    return this.#slab;
  }

  get position(): number {
    return this.#fill;
  }

  commit(length: number): void {
    this.#fill += length;
  }

  /**
   * Adds a part, which goes back to the buffers when it has been taken.
   *
   * @param room what it gives back then
   */
  append(part: Buffer, room = 0): void {
    this.#releasing += room;
    if (part.length <= COPY_MOST) {
      this.reserve(part.length).bytes.set(part, this.#fill);
      this.#fill += part.length;
      return;
    }
    this.#seal();
    this.#parts.push(part);
    this.#large.push(part);
  }

  #seal(): void {
    if (this.#slab === undefined || this.#fill === this.#sealed) return;
    this.#parts.push(this.#slab.bytes.subarray(this.#sealed, this.#fill));
    this.#sealed = this.#fill;
  }

  /** Sends what has gathered. */
  flush(): void {
    if (this.#flushing !== undefined) {
      clearImmediate(this.#flushing);
      this.#flushing = undefined;
    }
    this.#seal();
    const slab = this.#slab;
    // An array that stays would be filled by the next batch before this one is released.
    const large = this.#large.length > 0 ? this.#large : NONE;
    const releasing = this.#releasing;
    const sent = this.#parts.length > 0;
    if (sent) this.#link.send(this.#parts);
    this.#forget();
    if (sent && this.#link.unsent > 0) {
      this.#link.whenTaken(() => {
        this.#release(slab, large, releasing);
        this.#onTaken();
      });
    } else this.#release(slab, large, releasing);
  }

  #forget(): void {
    this.#slab = undefined;
    this.#fill = 0;
    this.#sealed = 0;
    this.#releasing = 0;
    if (this.#parts.length > 0) this.#parts = [];
    if (this.#large.length > 0) this.#large = [];
  }

  #release(slab: Slab | undefined, large: readonly Buffer[], room: number): void {
    if (slab !== undefined) this.#slabs.give(slab);
    for (const part of large) this.#buffers.give(part);
    this.#room.give(room);
  }

  /** Forgets what has gathered. */
  drop(): void {
    clearImmediate(this.#flushing);
    this.#release(this.#slab, this.#large, this.#releasing);
    this.#forget();
  }

  /** Sends what has gathered when everything that is ready has been done: replies that come together go together. */
  flushSoon(): void {
    this.#flushing ??= setImmediate(() => {
      this.#flushing = undefined;
      this.flush();
    });
  }
}
