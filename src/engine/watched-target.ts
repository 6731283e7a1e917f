import type { OverlayNode } from "../block/index.ts";
import {
  overlayTarget,
  type Populated,
  type StreamBase,
  type StreamExtent,
  type StreamTarget,
} from "../stream/index.ts";
import type { Activity } from "./activity.ts";

/** A stream target that tells what it does, and looks for its base when it needs it: that may be away yet. */
export class WatchedTarget implements StreamTarget {
  readonly #overlay: OverlayNode;
  readonly #activity: Activity;
  readonly #findBase: () => Promise<StreamBase | undefined>;
  #target: StreamTarget | undefined;

  /** @param findBase tried again until it has once succeeded */
  constructor(overlay: OverlayNode, activity: Activity, findBase: () => Promise<StreamBase | undefined>) {
    this.#overlay = overlay;
    this.#activity = activity;
    this.#findBase = findBase;
  }

  get name(): string {
    return this.#overlay.name;
  }

  get length(): number {
    return this.#overlay.length;
  }

  get grain(): number {
    return this.#overlay.grain;
  }

  async #demand(): Promise<StreamTarget> {
    if (this.#target !== undefined) return this.#target;
    const base = await this.#findBase();
    this.#target = overlayTarget(this.#overlay, base === undefined ? {} : { base });
    return this.#target;
  }

  async *extents(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    yield* (await this.#demand()).extents(offset, length);
  }

  async populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated> {
    const ended = this.#activity.begin({ offset, length });
    try {
      const populated = await (await this.#demand()).populate(offset, length, signal);
      ended("fetched");
      return populated;
    } catch (error) {
      ended();
      throw error;
    }
  }

  async clear(offset: number, length: number): Promise<Populated> {
    return (await this.#demand()).clear(offset, length);
  }

  checkpoint(): Promise<void> {
    return this.#overlay.checkpoint();
  }

  flush(): Promise<void> {
    return this.#overlay.flush();
  }

  async finish(): Promise<void> {
    await (await this.#demand()).finish();
  }
}
