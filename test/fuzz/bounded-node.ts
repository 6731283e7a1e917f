/**
 * A file in memory that counts what is asked of it and stops at a bound: an image that makes its reader work without end, or for
 * more than its own size explains, is found by these counts and not by a clock.
 */
import type { BlockNode, Extent } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { MemoryNode } from "../support/memory-node.ts";

/** As ext4: a file has at most 16 TiB. */
const LONGEST_FILE = 2 ** 44;

/** Not a StreamdiskError: nobody may take it for an answer. */
export class BoundExceeded extends Error {
  override readonly name = "BoundExceeded";
}

export interface Bounds {
  readonly operations: number;
  readonly bytes: number;
}

export class BoundedNode implements BlockNode {
  readonly name: string;
  readonly readOnly = false;
  readonly grows = true;
  readonly backing = undefined;
  /** Calls since the last `restart`. */
  operations = 0;
  /** Bytes read, and written, since then. */
  bytesRead = 0;
  bytesWritten = 0;
  /** The first bound that was passed, also if somebody caught the error. */
  exceeded: BoundExceeded | undefined;
  readonly #memory: MemoryNode;
  #bounds: Bounds;

  constructor(memory: MemoryNode, bounds: Bounds) {
    this.#memory = memory;
    this.#bounds = bounds;
    this.name = memory.name;
  }

  static of(bytes: Uint8Array, bounds: Bounds): BoundedNode {
    return new BoundedNode(MemoryNode.of(bytes, { name: "image" }), bounds);
  }

  get length(): number {
    return this.#memory.length;
  }

  /** Counts from zero again. */
  restart(bounds: Bounds = this.#bounds): void {
    this.operations = 0;
    this.bytesRead = 0;
    this.bytesWritten = 0;
    this.#bounds = bounds;
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.bytesRead += target.length;
    return this.#count("read", () => this.#memory.read(offset, target, signal));
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    this.bytesWritten += data.length;
    return this.#count("write", () => {
      this.#mustFit(offset + data.length);
      return this.#memory.write(offset, data);
    });
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#count("write zeroes", () => {
      this.#mustFit(offset + length);
      return this.#memory.writeZeroes(offset, length);
    });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#count("discard", () => this.#memory.discard(offset, length));
  }

  flush(): Promise<void> {
    return this.#count("flush", () => this.#memory.flush());
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#count("extents", () => this.#memory.extents(offset, length));
  }

  resize(length: number): Promise<void> {
    return this.#count("resize", () => {
      this.#mustFit(length);
      return this.#memory.resize(length);
    });
  }

  /** What an image closes can be opened again. */
  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  async #count<T>(what: string, act: () => Promise<T>): Promise<T> {
    this.operations++;
    const { operations, bytes } = this.#bounds;
    if (this.operations > operations || this.bytesRead + this.bytesWritten > bytes) {
      this.exceeded ??= new BoundExceeded(
        `${this.operations} operations, ${this.bytesRead} bytes read and ${this.bytesWritten} written, the last to ${what}`,
      );
      throw this.exceeded;
    }
    return act();
  }

  #mustFit(end: number): void {
    if (end <= Math.max(LONGEST_FILE, this.length)) return;
    throw new StreamdiskError("no-space", `'${this.name}' cannot have ${end} bytes`, { node: this.name });
  }
}
