/**
 * A connection of which nothing is real but the bytes. Its client takes what was sent when it likes, and reads it only then: a
 * server that uses memory again too early is found out.
 */
import type { Link } from "../../src/nbd/server/link.ts";

export class LazyLink implements Link {
  paused = false;
  /** Whether either side has ended it. */
  over = false;
  readonly #sent: (Buffer | (() => void))[] = [];
  #unsent = 0;
  /** Takes bytes as they are sent, as a kernel with room does. */
  eager = false;
  #received: Buffer[] = [];

  get unsent(): number {
    return this.#unsent;
  }

  send(parts: readonly Buffer[]): void {
    if (this.over) return;
    this.#sent.push(...parts);
    for (const part of parts) this.#unsent += part.length;
    if (this.eager) this.take(Number.POSITIVE_INFINITY);
  }

  whenTaken(callback: () => void): void {
    this.#sent.push(callback);
  }

  /** The client takes so many of the parts that were sent. */
  take(count: number): void {
    for (let left = count; left > 0 || typeof this.#sent[0] === "function"; left--) {
      const next = this.#sent.shift();
      if (next === undefined) return;
      if (typeof next === "function") next();
      else {
        this.#received.push(Buffer.from(next));
        this.#unsent -= next.length;
      }
    }
  }

  /** What the client has taken since the last look. */
  received(): Buffer {
    const bytes = Buffer.concat(this.#received);
    this.#received = [];
    return bytes;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  end(): void {
    this.over = true;
  }

  destroy(): void {
    this.over = true;
  }
}
