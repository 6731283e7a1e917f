import type { Populated, StreamExtent, StreamTarget } from "../stream/index.ts";
import type { Activity } from "./activity.ts";

/** A stream target that tells what it does. */
export class WatchedTarget implements StreamTarget {
  readonly #target: StreamTarget;
  readonly #activity: Activity;

  constructor(target: StreamTarget, activity: Activity) {
    this.#target = target;
    this.#activity = activity;
  }

  get name(): string {
    return this.#target.name;
  }

  get length(): number {
    return this.#target.length;
  }

  get grain(): number {
    return this.#target.grain;
  }

  extents(offset: number, length: number): AsyncIterable<StreamExtent> {
    return this.#target.extents(offset, length);
  }

  async populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated> {
    const ended = this.#activity.begin({ offset, length });
    try {
      const populated = await this.#target.populate(offset, length, signal);
      ended("fetched");
      return populated;
    } catch (error) {
      ended();
      throw error;
    }
  }

  clear(offset: number, length: number): Promise<Populated> {
    return this.#target.clear(offset, length);
  }

  checkpoint(): Promise<void> {
    return this.#target.checkpoint();
  }

  flush(): Promise<void> {
    return this.#target.flush();
  }

  finish(): Promise<void> {
    return this.#target.finish();
  }
}
