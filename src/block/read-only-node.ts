/** The base of nodes that can only be read: they refuse to be changed, and have nothing to flush. */
import type { Extent } from "./extent.ts";
import type { BlockNode } from "./node.ts";
import { validateWritable } from "./validate.ts";

export abstract class ReadOnlyNode implements BlockNode {
  readonly readOnly = true;
  readonly grows = false;
  abstract readonly name: string;
  abstract readonly length: number;
  abstract readonly backing: BlockNode | undefined;

  abstract read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  abstract extents(offset: number, length: number): Promise<Extent[]>;
  abstract close(): Promise<void>;

  async write(): Promise<void> {
    validateWritable(this, "write");
  }

  async writeZeroes(): Promise<void> {
    validateWritable(this, "write zeroes to");
  }

  async discard(): Promise<void> {
    validateWritable(this, "discard");
  }

  async resize(): Promise<void> {
    validateWritable(this, "resize");
  }

  async flush(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
