/**
 * Keeps what was read last of an image that many read, within a bound of memory: what one has fetched, those that come a little later
 * need not fetch again. They are faster by that, and catch up: so disks that are filled from one image at the same time cost its
 * source little more than one.
 *
 * It is kept in blocks. A block that is on its way is fetched once, whoever waits for it; what several neighbours lack is one request. A
 * block that was not asked for is fetched only as part of one. Of two that do not fit the one that was read longer ago goes. A block that
 * is zero takes next to no room, since sources that cannot say what is zero have many.
 *
 * A reader that is further behind than the bound fetches anew what has gone. The bound may be one that grows then, up to another: by
 * several times what had to be fetched again. So the memory is used where readers are apart, and one reader alone costs the first bound.
 *
 * Memory: the bound, and at most `MOST_UNDER_WAY` for what is on its way; more has to wait. A fetch that fails tells nobody whose part
 * of it may be in order: that is read by itself, and is not kept.
 */
import {
  type BlockNode,
  BufferPool,
  type Extent,
  type GuestNode,
  isZero,
  validateOpen,
  validateRange,
  whileWanted,
} from "../block/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";
import { together } from "./together.ts";

const BLOCK = 64 * 1024;
/** The longest fetch. */
const LONGEST = 1024 * 1024;
const MOST_UNDER_WAY = 16 * 1024 * 1024;
/** Memory that is kept for the next ones. */
const MOST_SPARE = 2 * 1024 * 1024;
/** What a block of zeroes counts, for its place in the table. */
const PLACE = 256;
/** By how many times what is fetched again the bound grows. */
const GROWTH = 4;

const ZERO = Symbol("a block of zeroes");
type Kept = Uint8Array | typeof ZERO;

interface Fetch {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly arrived: Promise<void>;
  /** Resolves when its blocks are kept, or will not be. */
  settled: Promise<void>;
}

/** How much is kept, in bytes. */
export interface CacheSize {
  readonly bytes: number;
  /** As far as this while what had to go is asked for again. @default `bytes` */
  readonly growsTo?: number | undefined;
}

export class BlockCache extends ReadOnlyFilter implements GuestNode {
  readonly #growsTo: number;
  #mostBytes: number;
  readonly #pool = new BufferPool(MOST_SPARE);
  /** By their index; the one that was read last comes last. */
  readonly #blocks = new Map<number, Kept>();
  readonly #underWay = new Map<number, Fetch>();
  /** Blocks that had to go, the last of them at the end: as many as could be kept at most. */
  readonly #gone = new Set<number>();
  #bytes = 0;
  #bytesUnderWay = 0;
  #closed = false;

  /** @param source closed with this */
  constructor(source: BlockNode, { bytes, growsTo = bytes }: CacheSize) {
    super(source);
    this.#mostBytes = bytes;
    this.#growsTo = growsTo;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    validateOpen(this, "read", this.#closed);
    validateRange(this, "read", offset, target.length);
    await together(async (add) => {
      const end = offset + target.length;
      for (let position = offset; position < end; ) {
        const kept = this.#take(position, target.subarray(position - offset));
        if (kept > 0) {
          position += kept;
          continue;
        }
        const fetch = this.#fetchAt(position, end);
        if (fetch === undefined) {
          await whileWanted(this.#oldest().settled, signal);
          validateOpen(this, "read", this.#closed);
          continue;
        }
        const to = Math.min(end, fetch.offset + fetch.bytes.length);
        if (!add(this.#fill(fetch, position, target.subarray(position - offset, to - offset), signal))) return;
        position = to;
      }
    });
  }

  /** What is kept here, or is at hand below. */
  readNow(offset: number, target: Uint8Array): boolean {
    if (this.source.readNow?.(offset, target)) return true;
    for (let done = 0; done < target.length; ) {
      const kept = this.#take(offset + done, target.subarray(done));
      if (kept === 0) return false;
      done += kept;
    }
    return true;
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.source.extents(offset, length);
  }

  override async close(): Promise<void> {
    this.#closed = true;
    await super.close();
    this.#makeRoom(this.#mostBytes);
  }

  /** Copies what is kept of the block at `position`; returns how many bytes that were. */
  #take(position: number, target: Uint8Array): number {
    const index = Math.floor(position / BLOCK);
    const block = this.#blocks.get(index);
    if (block === undefined) return 0;
    this.#blocks.delete(index);
    this.#blocks.set(index, block);
    const start = position - index * BLOCK;
    const length = Math.min(BLOCK - start, target.length);
    if (block === ZERO) target.fill(0, 0, length);
    else target.set(block.subarray(start, start + length));
    return length;
  }

  /** The fetch that has the block at `position`: one that is under way, or a new one; undefined when there is no room for that. */
  #fetchAt(position: number, end: number): Fetch | undefined {
    const index = Math.floor(position / BLOCK);
    const there = this.#underWay.get(index);
    if (there !== undefined) return there;
    const last = Math.min(Math.ceil(end / BLOCK), index + LONGEST / BLOCK);
    let next = index + 1;
    while (next < last && !this.#blocks.has(next) && !this.#underWay.has(next)) next++;
    const length = Math.min(next * BLOCK, this.length) - index * BLOCK;
    const hasRoom = this.#bytesUnderWay === 0 || this.#bytesUnderWay + length <= MOST_UNDER_WAY;
    return hasRoom ? this.#begin(index * BLOCK, length) : undefined;
  }

  #oldest(): Fetch {
    return this.#underWay.values().next().value as Fetch;
  }

  #begin(offset: number, length: number): Fetch {
    const buffer = this.#pool.take(length);
    const bytes = buffer.subarray(0, length);
    const arrived = this.source.read(offset, bytes);
    const fetch: Fetch = { offset, bytes, arrived, settled: arrived };
    this.#bytesUnderWay += length;
    for (let at = offset; at < offset + length; at += BLOCK) {
      this.#underWay.set(at / BLOCK, fetch);
      if (this.#gone.delete(at / BLOCK)) this.#grow();
    }
    fetch.settled = arrived.then(
      () => {
        this.#keep(fetch);
        // Whoever waits for it has had its bytes by then.
        setImmediate(() => this.#pool.give(buffer));
      },
      () => this.#ended(fetch),
    );
    return fetch;
  }

  #keep(fetch: Fetch): void {
    this.#ended(fetch);
    if (this.#closed) return;
    const { offset, bytes } = fetch;
    for (let start = 0; start < bytes.length; start += BLOCK) {
      const end = Math.min(start + BLOCK, bytes.length);
      const zero = isZero(bytes, start, end);
      this.#makeRoom(zero ? PLACE : BLOCK);
      const block = zero ? ZERO : this.#pool.take(BLOCK);
      if (block !== ZERO) block.set(bytes.subarray(start, end));
      this.#blocks.set((offset + start) / BLOCK, block);
      this.#bytes += costOf(block);
    }
  }

  #ended({ offset, bytes }: Fetch): void {
    this.#bytesUnderWay -= bytes.length;
    for (let at = offset; at < offset + bytes.length; at += BLOCK) this.#underWay.delete(at / BLOCK);
  }

  #makeRoom(bytes: number): void {
    for (const [index, block] of this.#blocks) {
      if (this.#bytes + bytes <= this.#mostBytes) return;
      this.#blocks.delete(index);
      this.#bytes -= costOf(block);
      if (block === ZERO) continue;
      this.#pool.give(block);
      if (this.#mostBytes < this.#growsTo) this.#remember(index);
    }
  }

  #remember(index: number): void {
    this.#gone.delete(index);
    this.#gone.add(index);
    if (this.#gone.size * BLOCK <= this.#growsTo) return;
    const [oldest] = this.#gone;
    this.#gone.delete(oldest!);
  }

  /** By what a block that is fetched again is worth. */
  #grow(): void {
    this.#mostBytes = Math.min(this.#growsTo, this.#mostBytes + GROWTH * BLOCK);
    if (this.#mostBytes === this.#growsTo) this.#gone.clear();
  }

  async #fill(fetch: Fetch, offset: number, part: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    try {
      await whileWanted(fetch.arrived, signal);
      part.set(fetch.bytes.subarray(offset - fetch.offset, offset - fetch.offset + part.length));
    } catch (error) {
      if (signal?.aborted || part.length === fetch.bytes.length) throw error;
      await this.source.read(offset, part, signal);
    }
  }
}

function costOf(block: Kept): number {
  return block === ZERO ? PLACE : BLOCK;
}
