/**
 * How much of an image is data, zero and missing. To count it takes a walk over all its tables, which of a large image takes a while, and a
 * daemon is asked for all its disks again and again: so the result is kept until something may have changed. Of an image for which a walk
 * takes long it may be a little old, so that walks take a twentieth of the time; but never of another length of the image.
 */
import { type BlockNode, type Clock, layerExtents, systemClock } from "../block/index.ts";

/** Bytes. */
export interface Allocation {
  readonly data: number;
  readonly zero: number;
  readonly missing: number;
}

/** A walk that takes no longer is made again whenever something has changed. */
const SHORT_MS = 5;
const MOST_OF_TIME = 1 / 20;

export class AllocationCount {
  readonly #node: BlockNode;
  readonly #state: () => string;
  readonly #clock: Clock;
  #walk: { readonly state: string; readonly length: number; readonly result: Promise<Allocation> } | undefined;
  /** Until when the last result does, whatever has changed. */
  #goodUntil = 0;

  /** @param state differs whenever something may have been allocated or let go of */
  constructor(node: BlockNode, state: () => string, clock: Clock = systemClock) {
    this.#node = node;
    this.#state = state;
    this.#clock = clock;
  }

  count(): Promise<Allocation> {
    const state = this.#state();
    const { length } = this.#node;
    const isGood = this.#walk?.state === state || this.#clock.now() < this.#goodUntil;
    const walk = this.#walk?.length === length && isGood ? this.#walk : { state, length, result: this.#count() };
    this.#walk = walk;
    return walk.result;
  }

  async #count(): Promise<Allocation> {
    const began = this.#clock.now();
    try {
      const bytes = { data: 0, zero: 0, missing: 0 };
      for await (const { kind, length } of layerExtents(this.#node)) bytes[kind] += length;
      const now = this.#clock.now();
      this.#goodUntil = now - began > SHORT_MS ? now + (now - began) / MOST_OF_TIME : 0;
      return bytes;
    } catch (error) {
      this.#walk = undefined;
      throw error;
    }
  }
}
