/**
 * How much memory clients may make a server hold: for reads under way, for data on their way into a write, for replies that
 * their client does not take.
 *
 * Each connection has a share of its own, enough to get on with, and borrows the rest from what all have in common. So
 * clients that hold a lot and never let go cost the others speed at most.
 */
import { PIECE } from "./request.ts";

const SHARED = 256 * 1024 * 1024;
const OWN = 2 * PIECE;
const MOST = 64 * 1024 * 1024;

/** What all connections of a server have in common. */
export class SharedRoom {
  #left: number;
  readonly #waiting = new Set<() => void>();

  constructor(bytes: number = SHARED) {
    this.#left = bytes;
  }

  /** Takes bytes; or takes none, and `again` is called when some have come back. */
  take(bytes: number, again: () => void): boolean {
    if (bytes > this.#left) {
      this.#waiting.add(again);
      return false;
    }
    this.#left -= bytes;
    return true;
  }

  give(bytes: number): void {
    if (bytes === 0) return;
    this.#left += bytes;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const again of waiting) again();
  }

  forget(again: () => void): void {
    this.#waiting.delete(again);
  }
}

/** What one connection has. */
export class Room {
  readonly #shared: SharedRoom;
  readonly #again: () => void;
  #used = 0;
  #borrowed = 0;

  /** @param again called when there may be room after `take` said no */
  constructor(shared: SharedRoom, again: () => void) {
    this.#shared = shared;
    this.#again = again;
  }

  /** Takes bytes, if they can be had now. A piece can always be had when nothing else is held. */
  take(bytes: number): boolean {
    const used = this.#used + bytes;
    if (used > MOST) return false;
    const missing = used - OWN - this.#borrowed;
    if (missing > 0) {
      if (!this.#shared.take(missing, this.#again)) return false;
      this.#borrowed += missing;
    }
    this.#used = used;
    return true;
  }

  give(bytes: number): void {
    if (bytes === 0) return;
    this.#used -= bytes;
    const back = Math.min(this.#borrowed, this.#borrowed - Math.max(0, this.#used - OWN));
    this.#borrowed -= back;
    this.#shared.give(back);
    this.#again();
  }

  /** The connection has ended: nobody waits any more. What is held comes back as it is given. */
  leave(): void {
    this.#shared.forget(this.#again);
  }
}
