/**
 * An overlay in memory: an array of cluster states over bytes, without any format. What it does is what the contract in
 * src/block/node.ts says and nothing more, so that tests of the stream and of filters need no image.
 */
import type { BackingReference, BlockNode, Extent, ExtentKind, OverlayNode } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";

const KINDS: readonly ExtentKind[] = ["missing", "data", "zero"];
const MISSING = 0;
const DATA = 1;
const ZERO = 2;

export interface MemoryOverlayOptions {
  readonly length: number;
  readonly grain?: number;
  readonly backing?: BlockNode;
  readonly name?: string;
}

export class MemoryOverlay implements OverlayNode {
  readonly name: string;
  readonly length: number;
  readonly grain: number;
  readonly readOnly = false;
  readonly grows = false;
  backing: BlockNode | undefined;
  backingReference: BackingReference | undefined;
  /** What was asked of it, in order: "populate 0 65536", "checkpoint", "flush", "link base". */
  readonly calls: string[] = [];
  /** Throws here to make a call fail. */
  beforeCall: (call: string) => void | Promise<void> = () => {};
  readonly #states: Uint8Array;
  readonly #bytes: Uint8Array;

  constructor({ length, grain = 65536, backing, name = "overlay" }: MemoryOverlayOptions) {
    this.name = name;
    this.length = length;
    this.grain = grain;
    this.backing = backing;
    this.backingReference = backing === undefined ? undefined : { reference: backing.name, format: "raw" };
    this.#states = new Uint8Array(Math.ceil(length / grain));
    this.#bytes = new Uint8Array(length);
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    for (const part of this.#parts(offset, target.length)) {
      const into = target.subarray(part.offset - offset, part.end - offset);
      if (this.#states[part.cluster] === MISSING) await this.#readBelow(part.offset, into, signal);
      else into.set(this.#bytes.subarray(part.offset, part.end));
    }
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    for (const { cluster, offset: start, end } of this.#parts(offset, data.length)) {
      await this.#own(cluster);
      this.#bytes.set(data.subarray(start - offset, end - offset), start);
      this.#states[cluster] = DATA;
    }
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    for (const { cluster, offset: start, end } of this.#parts(offset, length)) {
      const whole = start === cluster * this.grain && end === Math.min(start + this.grain, this.length);
      if (!whole) await this.#own(cluster);
      this.#bytes.fill(0, start, end);
      this.#states[cluster] = whole ? ZERO : DATA;
    }
  }

  discard(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length);
  }

  async populate(offset: number, data: Uint8Array): Promise<number> {
    await this.#call(`populate ${offset} ${data.length}`);
    return this.#fill(offset, data.length, DATA, data);
  }

  async populateZeroes(offset: number, length: number): Promise<number> {
    await this.#call(`zeroes ${offset} ${length}`);
    return this.#fill(offset, length, ZERO);
  }

  #fill(offset: number, length: number, state: number, data?: Uint8Array): number {
    const end = offset + length;
    if (offset % this.grain !== 0 || (length % this.grain !== 0 && end !== this.length) || end > this.length) {
      throw new StreamdiskError("invalid-argument", `Populate of ${length} bytes at ${offset} is not aligned`);
    }
    let count = 0;
    for (const part of this.#parts(offset, length)) {
      if (this.#states[part.cluster] !== MISSING) continue;
      if (data !== undefined) this.#bytes.set(data.subarray(part.offset - offset, part.end - offset), part.offset);
      this.#states[part.cluster] = state;
      count += part.end - part.offset;
    }
    return count;
  }

  async flush(): Promise<void> {
    await this.#call("flush");
  }

  async checkpoint(): Promise<void> {
    await this.#call("checkpoint");
  }

  async changeBacking(reference: BackingReference | undefined, node: BlockNode | undefined): Promise<void> {
    await this.#call(`link ${reference?.reference ?? "nothing"}`);
    this.backingReference = reference;
    this.backing = node;
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    const found: Extent[] = [];
    for (const { cluster, offset: start, end } of this.#parts(offset, length)) {
      const kind = KINDS[this.#states[cluster]!]!;
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: end - last.offset };
      else found.push({ offset: start, length: end - start, kind, depth: 0 });
    }
    return found;
  }

  resize(): Promise<void> {
    throw new StreamdiskError("unsupported", "A memory overlay keeps its size");
  }

  async close(): Promise<void> {
    await this.backing?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #own(cluster: number): Promise<void> {
    if (this.#states[cluster] !== MISSING) return;
    const start = cluster * this.grain;
    const into = new Uint8Array(Math.min(this.grain, this.length - start));
    await this.#readBelow(start, into);
    if (this.#states[cluster] === MISSING) this.#bytes.set(into, start);
  }

  async #readBelow(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    const inside = Math.max(0, Math.min(into.length, (this.backing?.length ?? 0) - offset));
    into.fill(0, inside);
    if (inside > 0) await this.backing?.read(offset, into.subarray(0, inside), signal);
  }

  async #call(call: string): Promise<void> {
    await this.beforeCall(call);
    this.calls.push(call);
  }

  /** The parts of a range, cut at clusters. */
  *#parts(offset: number, length: number): Generator<{ cluster: number; offset: number; end: number }> {
    const end = offset + length;
    for (let start = offset; start < end; ) {
      const cluster = Math.floor(start / this.grain);
      const stop = Math.min(end, (cluster + 1) * this.grain);
      yield { cluster, offset: start, end: stop };
      start = stop;
    }
  }
}
