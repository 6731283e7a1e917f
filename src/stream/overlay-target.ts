/**
 * A stream target over nodes: an overlay that this process has open, and what lies below it.
 *
 * What is missing in the overlay is looked up below, down to the base, and only data is read. Without a base, what reads
 * as zeroes below needs nothing at all: once the link is broken the overlay itself reads as zeroes there. With a
 * base it must be written, or the base would show through; that includes what lies past the end of a layer that is
 * shorter than the base.
 *
 * A fetched range is read into a buffer of the pool, so memory is what the job has under way at a time.
 */
import {
  type BackingReference,
  type BlockNode,
  BufferPool,
  chainExtents,
  dataRuns,
  layerExtents,
  type OverlayNode,
} from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { wholeGrains } from "./grain.ts";
import type { Populated, StreamExtent, StreamTarget } from "./target.ts";

/** The layer that stays below the overlay, and how the overlay shall refer to it. */
export interface StreamBase {
  readonly node: BlockNode;
  readonly reference: BackingReference;
}

export interface OverlayTargetOptions {
  /** Absent: everything is fetched and the overlay stands alone. */
  readonly base?: StreamBase;
  /** Makes copied data that is zero throughout zero clusters. @default true */
  readonly detectZeroes?: boolean;
}

export function overlayTarget(overlay: OverlayNode, options: OverlayTargetOptions = {}): StreamTarget {
  return new OverlayTarget(overlay, options);
}

class OverlayTarget implements StreamTarget {
  readonly #overlay: OverlayNode;
  readonly #base: StreamBase | undefined;
  readonly #detectZeroes: boolean;
  readonly #pool = new BufferPool();

  constructor(overlay: OverlayNode, { base, detectZeroes = true }: OverlayTargetOptions) {
    this.#overlay = overlay;
    this.#base = base;
    this.#detectZeroes = detectZeroes;
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

  async *extents(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    for await (const extent of layerExtents(this.#overlay, offset, length)) {
      if (extent.kind === "missing") {
        const end = extent.offset + extent.length;
        yield* wholeGrains(this.#below(extent.offset, extent.length), this.grain, end);
      } else {
        yield { offset: extent.offset, length: extent.length, kind: extent.kind === "data" ? "local" : "zero" };
      }
    }
  }

  /** What a range that is missing in the overlay needs, by what lies below. */
  async *#below(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    const below = this.#overlay.backing;
    const base = this.#base?.node;
    if (below === base) {
      yield { offset, length, kind: base === undefined ? "zero" : "base" };
      return;
    }
    const end = offset + length;
    const inside = below === undefined ? offset : Math.min(end, Math.max(below.length, offset));
    if (below !== undefined && inside > offset) {
      for await (const { kind, ...range } of chainExtents(below, offset, inside - offset, base)) {
        if (kind === "data") yield { offset: range.offset, length: range.length, kind: "fetch" };
        else if (base === undefined) yield { offset: range.offset, length: range.length, kind: "zero" };
        else yield { offset: range.offset, length: range.length, kind: kind === "zero" ? "clear" : "base" };
      }
    }
    if (end > inside) yield { offset: inside, length: end - inside, kind: base === undefined ? "zero" : "clear" };
  }

  async populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated> {
    const buffer = this.#pool.take(length);
    const data = buffer.subarray(0, length);
    try {
      await this.#readBelow(offset, data, signal);
      if (!this.#detectZeroes) return { data: await this.#overlay.populate(offset, data), zero: 0 };
      return await this.#store(offset, data);
    } finally {
      this.#pool.give(buffer);
    }
  }

  async #readBelow(offset: number, data: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const below = this.#overlay.backing;
    const inside = below === undefined ? 0 : Math.max(0, Math.min(data.length, below.length - offset));
    if (inside < data.length) data.fill(0, inside);
    if (below === undefined || inside === 0) return;
    try {
      await below.read(offset, inside === data.length ? data : data.subarray(0, inside), signal);
    } catch (error) {
      if (!(error instanceof StreamdiskError) || error.code !== "io") throw error;
      throw new StreamdiskError("source-lost", error.message, error.context, error);
    }
  }

  /** Populates data as data and zeroes as zeroes. */
  async #store(offset: number, data: Uint8Array): Promise<Populated> {
    const done = { data: 0, zero: 0 };
    for (const { start, end, zero } of dataRuns(data, this.grain)) {
      if (zero) done.zero += await this.#overlay.populateZeroes(offset + start, end - start);
      else done.data += await this.#overlay.populate(offset + start, data.subarray(start, end));
    }
    return done;
  }

  async clear(offset: number, length: number): Promise<Populated> {
    return { data: 0, zero: await this.#overlay.populateZeroes(offset, length) };
  }

  checkpoint(): Promise<void> {
    return this.#overlay.checkpoint();
  }

  flush(): Promise<void> {
    return this.#overlay.flush();
  }

  async finish(): Promise<void> {
    if (this.#overlay.backingReference === undefined && this.#overlay.backing === undefined) return;
    await this.#overlay.changeBacking(this.#base?.reference, this.#base?.node);
  }
}
