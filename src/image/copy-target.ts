/**
 * A stream target that copies one node into another, new one: what `convert` pumps through. The new node reads as zeroes
 * everywhere, so only data is copied. What was copied is written back as it goes, or the end would wait for all of it.
 *
 * An overlay is populated rather than written: a populate does not wait for its mapping to be safe.
 */
import { type BlockNode, BufferPool, chainExtents, dataRuns, isOverlay } from "../block/index.ts";
import { type Populated, type StreamExtent, type StreamTarget, wholeGrains } from "../stream/index.ts";

export class CopyTarget implements StreamTarget {
  readonly name: string;
  readonly length: number;
  readonly grain: number;
  readonly #source: BlockNode;
  readonly #destination: BlockNode;
  readonly #detectZeroes: boolean;
  readonly #store: (offset: number, data: Uint8Array) => Promise<unknown>;
  readonly #pool = new BufferPool();

  constructor(source: BlockNode, destination: BlockNode, detectZeroes: boolean) {
    this.name = destination.name;
    this.length = source.length;
    this.#source = source;
    this.#destination = destination;
    this.#detectZeroes = detectZeroes;
    if (isOverlay(destination)) {
      this.grain = destination.grain;
      this.#store = (offset, data) => destination.populate(offset, data);
    } else {
      this.grain = 512;
      this.#store = (offset, data) => destination.write(offset, data);
    }
  }

  async *extents(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    yield* wholeGrains(this.#runs(offset, length), this.grain, offset + length);
  }

  async *#runs(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    for await (const extent of chainExtents(this.#source, offset, length)) {
      yield { offset: extent.offset, length: extent.length, kind: extent.kind === "data" ? "fetch" : "zero" };
    }
  }

  async populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated> {
    const buffer = this.#pool.take(length);
    const data = buffer.subarray(0, length);
    const done = { data: 0, zero: 0 };
    try {
      await this.#source.read(offset, data, signal);
      for (const { start, end, zero } of this.#runsIn(data)) {
        if (!zero) await this.#store(offset + start, data.subarray(start, end));
        done[zero ? "zero" : "data"] += end - start;
      }
      return done;
    } finally {
      this.#pool.give(buffer);
    }
  }

  #runsIn(data: Uint8Array): Iterable<{ start: number; end: number; zero: boolean }> {
    return this.#detectZeroes ? dataRuns(data, this.grain) : [{ start: 0, end: data.length, zero: false }];
  }

  async clear(): Promise<Populated> {
    throw new Error("A new image reads as zeroes already");
  }

  checkpoint(): Promise<void> {
    return isOverlay(this.#destination) ? this.#destination.checkpoint() : this.#destination.flush();
  }

  flush(): Promise<void> {
    return this.#destination.flush();
  }

  async finish(): Promise<void> {}
}
