/**
 * Replies on their way out. Small ones are put together in a slab, so that a batch of requests is answered with one write;
 * large ones go by reference. A slab is used again as soon as the kernel has taken it, which is at once unless the client
 * does not read.
 */
import type { Link } from "./link.ts";
import { viewOf } from "./reply-codec.ts";
import type { Room } from "./room.ts";

const SLAB_BYTES = 256 * 1024;
/** What is smaller is copied: a part of a write costs about as much. */
const COPY_MOST = 16 * 1024;
const KEPT_SLABS = 8;

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

export class Outbox {
  readonly #link: Link;
  readonly #pool: SlabPool;
  readonly #room: Room;
  readonly #onTaken: () => void;
  #slab: Slab | undefined;
  #fill = 0;
  /** Up to where the slab has become part of `#parts`. */
  #sealed = 0;
  #parts: Buffer[] = [];
  /** Bytes of room that the parts give back when they have been taken. */
  #releasing = 0;
  #flushing: NodeJS.Immediate | undefined;

  /** @param onTaken called when the kernel has taken what it would not take at once */
  constructor(link: Link, pool: SlabPool, room: Room, onTaken: () => void) {
    this.#link = link;
    this.#pool = pool;
    this.#room = room;
    this.#onTaken = onTaken;
  }

  /** A slab with room for `length` bytes at `position`; they count once they are committed. */
  reserve(length: number): Slab {
    if (this.#fill + length > SLAB_BYTES) this.flush();
    this.#slab ??= this.#pool.take();
    return this.#slab;
  }

  get position(): number {
    return this.#fill;
  }

  commit(length: number): void {
    this.#fill += length;
  }

  /**
   * Adds a part that must stay as it is.
   *
   * @param room what it gives back when it has been taken
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
    const releasing = this.#releasing;
    this.#slab = undefined;
    this.#fill = 0;
    this.#sealed = 0;
    this.#releasing = 0;
    if (this.#parts.length > 0) {
      this.#link.send(this.#parts);
      this.#parts = [];
      if (this.#link.unsent > 0) {
        this.#link.whenTaken(() => this.#taken(slab, releasing));
        return;
      }
    }
    if (slab !== undefined) this.#pool.give(slab);
    this.#room.give(releasing);
  }

  #taken(slab: Slab | undefined, releasing: number): void {
    if (slab !== undefined) this.#pool.give(slab);
    this.#room.give(releasing);
    this.#onTaken();
  }

  /** Forgets what has gathered. */
  drop(): void {
    clearImmediate(this.#flushing);
    this.#parts = [];
    if (this.#slab !== undefined) this.#pool.give(this.#slab);
    this.#slab = undefined;
    this.#room.give(this.#releasing);
    this.#releasing = 0;
  }

  /** Sends what has gathered when everything that is ready has been done: replies that come together go together. */
  flushSoon(): void {
    this.#flushing ??= setImmediate(() => {
      this.#flushing = undefined;
      this.flush();
    });
  }
}
