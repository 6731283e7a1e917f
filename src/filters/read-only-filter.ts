/** The base of filters over something that is only read: a source. Closing the filter closes the source. */
import { type BlockNode, ReadOnlyNode } from "../block/index.ts";

export abstract class ReadOnlyFilter extends ReadOnlyNode {
  protected readonly source: BlockNode;

  constructor(source: BlockNode) {
    super();
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

  async close(): Promise<void> {
    await this.source.close();
  }
}
