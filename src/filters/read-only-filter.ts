/** The base of filters over something that is only read: a source. Closing the filter closes the source. */
import { type BlockNode, type Extent, validateWritable } from "../block/index.ts";

export abstract class ReadOnlyFilter implements BlockNode {
  readonly readOnly = true;
  readonly grows = false;
  protected readonly source: BlockNode;

  constructor(source: BlockNode) {
    this.source = source;
  }

  get name(): string {
    return this.source.name;
  }

  get length(): number {
    return this.source.length;
  }

  get backing(): BlockNode | undefined {
    return this.source.backing;
  }

  abstract read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  abstract extents(offset: number, length: number): Promise<Extent[]>;

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

  async close(): Promise<void> {
    await this.source.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
