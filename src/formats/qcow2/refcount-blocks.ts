/** The refcount blocks that are in memory: those in use, and all that are dirty or being written. */
import type { BlockNode } from "../../block/index.ts";
import type { MetadataWrite } from "../mapped/allocator.ts";
import { RefcountBlock } from "./refcount-block.ts";

const CACHE_BYTES = 16 * 1024 * 1024;

/** What a checkpoint has to write of the blocks. */
export interface BlocksSnapshot {
  readonly writes: readonly MetadataWrite[];
  /** All of it has reached the file: the blocks may be dropped again. */
  done(): void;
  /** It has not: all of it is dirty again. */
  undo(): void;
}

export class RefcountBlocks {
  readonly #file: BlockNode;
  readonly #clusterSize: number;
  readonly #refcountBits: number;
  readonly #cache = new Map<number, RefcountBlock>();
  readonly #dirty = new Set<RefcountBlock>();

  constructor(file: BlockNode, clusterSize: number, refcountBits: number) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#refcountBits = refcountBits;
  }

  get dirty(): boolean {
    return this.#dirty.size > 0;
  }

  has(region: number): boolean {
    return this.#cache.has(region);
  }

  peek(region: number): RefcountBlock | undefined {
    return this.#cache.get(region);
  }

  async load(region: number, host: number): Promise<RefcountBlock> {
    const bytes = new Uint8Array(this.#clusterSize);
    await this.#file.read(host, bytes);
    const block = new RefcountBlock(region, host, bytes, this.#refcountBits, false);
    this.#cache.set(region, block);
    this.#makeRoom(block);
    return block;
  }

  /** A block that is not in the file yet; pinned. */
  make(region: number, host: number): RefcountBlock {
    const block = new RefcountBlock(region, host, new Uint8Array(this.#clusterSize), this.#refcountBits, true);
    this.#cache.set(region, block);
    this.#dirty.add(block);
    return this.pin(block);
  }

  /** Keeps a block in memory until it is let go of as often. */
  pin(block: RefcountBlock): RefcountBlock {
    block.pins++;
    return block;
  }

  unpin(block: RefcountBlock): void {
    block.pins--;
  }

  /** Counts of the block have been set. */
  touched(block: RefcountBlock): void {
    this.#dirty.add(block);
  }

  #makeRoom(newest: RefcountBlock): void {
    const most = Math.max(4, Math.floor(CACHE_BYTES / this.#clusterSize));
    if (this.#cache.size <= most) return;
    for (const candidate of this.#cache.values()) {
      if (candidate.dirty || candidate.pins > 0 || candidate === newest) continue;
      this.#cache.delete(candidate.index);
      return;
    }
  }

  /** Takes what is dirty; it counts as clean then. End it with `done` or `undo`. */
  snapshot(): BlocksSnapshot {
    const writes: MetadataWrite[] = [];
    const held = [...this.#dirty];
    const undo: (() => void)[] = [];
    for (const block of held) {
      this.pin(block);
      const { isNew, dirtyFrom, dirtyTo } = block;
      const from = isNew ? 0 : dirtyFrom;
      const to = isNew ? block.bytes.length : dirtyTo;
      writes.push({ offset: block.host + from, bytes: block.bytes.slice(from, to) });
      block.isNew = false;
      block.dirtyFrom = Number.POSITIVE_INFINITY;
      block.dirtyTo = 0;
      undo.push(() => {
        block.isNew ||= isNew;
        block.touch(dirtyFrom, dirtyTo);
        this.#dirty.add(block);
      });
    }
    this.#dirty.clear();
    const done = () => {
      for (const block of held) this.unpin(block);
    };
    return {
      writes,
      done,
      undo: () => {
        done();
        for (const step of undo) step();
      },
    };
  }
}
