/**
 * What copy-on-read has under way: ranges on their way from below into the overlay.
 *
 * A fetch takes whole units: at least a grain, so that it can be kept; at least 64 KiB, so that a walk through a file
 * costs few round trips. While a unit is under way everybody who reads it waits for the same fetch, which stays in the table until its
 * bytes are in the overlay, or will not be. Its readers go first: keeping begins one turn of the event loop later.
 *
 * Memory: at most `MOST_BYTES`, or one fetch that is larger, are under way; more have to wait.
 */
import { type BlockNode, BufferPool, dataRuns, type OverlayNode, validateRange } from "../block/index.ts";

const LEAST_UNIT = 64 * 1024;
/** The longest fetch, unless a unit is longer. */
const LONGEST = 1024 * 1024;
const MOST_BYTES = 8 * 1024 * 1024;
/** Memory that is kept for the next ones: the kernel would have to find and clear it anew. */
const MOST_KEPT = 2 * 1024 * 1024;

/** Whole units on their way. */
export interface Fetch {
  readonly offset: number;
  /** Where it reads. */
  readonly below: BlockNode;
  readonly bytes: Uint8Array;
  readonly arrived: Promise<void>;
  /** Resolves when the bytes are in the overlay, or will not be. */
  readonly kept: Promise<void>;
  /** Why they have arrived and will not be kept. */
  failure: { readonly error: unknown } | undefined;
}

export interface FetchTableOptions {
  /** Called when the image could not take what was fetched. */
  readonly onNotKept: () => void;
  /** Called when a fetch begins. What it returns is called when that has ended, with whether its bytes are in the overlay. */
  readonly onFetch?:
    | ((range: { readonly offset: number; readonly length: number }) => (kept: boolean) => void)
    | undefined;
}

export class FetchTable {
  readonly #overlay: OverlayNode;
  readonly #unit: number;
  readonly #options: FetchTableOptions;
  readonly #pool = new BufferPool(MOST_KEPT);
  readonly #byUnit = new Map<number, Fetch>();
  #bytes = 0;
  #fetched = 0;
  #kept = 0;

  constructor(overlay: OverlayNode, options: FetchTableOptions) {
    this.#overlay = overlay;
    this.#unit = Math.max(LEAST_UNIT, overlay.grain);
    this.#options = options;
  }

  /** Bytes that have arrived from below. */
  get fetched(): number {
    return this.#fetched;
  }

  /** Bytes that were missing and are local through this. */
  get kept(): number {
    return this.#kept;
  }

  /**
   * A fetch whose bytes include the one at `position`: one that is under way, or a new one that goes as far as `end` if it may be
   * so long.
   *
   * @param below where to read, and what the range was missing over when it was looked up
   */
  async take(position: number, end: number, below: BlockNode): Promise<Fetch> {
    for (;;) {
      const fetch = this.takeNow(position, end, below);
      if (fetch !== undefined) return fetch;
      await (this.#byUnit.get(this.#unitOf(position)) ?? this.#oldest())?.kept;
    }
  }

  /** The same; undefined when it would have to wait. */
  takeNow(position: number, end: number, below: BlockNode): Fetch | undefined {
    const unit = this.#unitOf(position);
    const there = this.#byUnit.get(unit);
    if (there !== undefined) {
      // One from before the disk has grown may end too early, and one from before the link was changed may fail.
      const serves = there.below === below && position < there.offset + there.bytes.length;
      return serves ? there : undefined;
    }
    const count = this.#count(unit, end);
    const hasRoom = this.#bytes === 0 || this.#bytes + count * this.#unit <= MOST_BYTES;
    return hasRoom ? this.#begin(position, count, below) : undefined;
  }

  /** Whether a range lies inside one unit. */
  isInOne(offset: number, length: number): boolean {
    return (offset % this.#unit) + length <= this.#unit;
  }

  #unitOf(position: number): number {
    return Math.floor(position / this.#unit);
  }

  /** Resolves when nothing is under way. */
  async settle(): Promise<void> {
    for (let fetch = this.#oldest(); fetch !== undefined; fetch = this.#oldest()) await fetch.kept;
  }

  #oldest(): Fetch | undefined {
    return this.#byUnit.values().next().value;
  }

  /** How many units from `unit` on one fetch may take. */
  #count(unit: number, end: number): number {
    const most = Math.min(LONGEST / this.#unit, Math.ceil(end / this.#unit) - unit);
    let count = 1;
    while (count < most && !this.#byUnit.has(unit + count)) count++;
    return count;
  }

  #begin(position: number, count: number, below: BlockNode): Fetch {
    // It may have become shorter since it was looked at.
    validateRange(this.#overlay, "read", position, 1);
    const offset = this.#unitOf(position) * this.#unit;
    const length = Math.min(count * this.#unit, this.#overlay.length - offset);
    const buffer = this.#pool.take(length);
    const bytes = buffer.length === length ? buffer : buffer.subarray(0, length);
    const inside = Math.max(0, Math.min(length, below.length - offset));
    if (inside < length) bytes.fill(0, inside);
    const arrived = inside > 0 ? below.read(offset, inside < length ? bytes.subarray(0, inside) : bytes) : SETTLED;
    const fetch = { offset, below, bytes, arrived, kept: SETTLED, failure: undefined };
    this.#bytes += length;
    for (const unit of this.#unitsOf(fetch)) this.#byUnit.set(unit, fetch);
    const ended = this.#options.onFetch?.({ offset, length });
    fetch.kept = this.#keep(fetch, inside, buffer).then((kept) => ended?.(kept));
    return fetch;
  }

  /** @returns whether its bytes are in the overlay */
  async #keep(fetch: Fetch, inside: number, buffer: Uint8Array): Promise<boolean> {
    try {
      await fetch.arrived;
    } catch {
      // Its readers are told.
      this.#remove(fetch);
      return false;
    }
    this.#fetched += inside;
    await nextTurn();
    try {
      await this.#populate(fetch);
    } catch (error) {
      fetch.failure = { error };
      this.#options.onNotKept();
      return false;
    } finally {
      this.#remove(fetch);
    }
    // Whoever took it from the table while it was there has had its bytes by then.
    setImmediate(() => this.#pool.give(buffer));
    return true;
  }

  #remove(fetch: Fetch): void {
    this.#bytes -= fetch.bytes.length;
    for (const unit of this.#unitsOf(fetch)) this.#byUnit.delete(unit);
  }

  #unitsOf({ offset, bytes }: Fetch): number[] {
    const first = this.#unitOf(offset);
    return Array.from({ length: Math.ceil(bytes.length / this.#unit) }, (_, i) => first + i);
  }

  async #populate({ offset, bytes }: Fetch): Promise<void> {
    for (const { start, end, zero } of dataRuns(bytes, this.#overlay.grain)) {
      const length = this.#keepable(offset + start, end - start);
      if (length <= 0) break;
      if (zero) await this.#overlay.populateZeroes(offset + start, length);
      else this.#kept += await this.#overlay.populate(offset + start, bytes.subarray(start, start + length));
    }
  }

  /** The disk may have become shorter meanwhile, or longer: then what was its end is a part of a grain, and not all that there is. */
  #keepable(offset: number, length: number): number {
    const left = this.#overlay.length - offset;
    return length >= left ? left : length - (length % this.#overlay.grain);
  }
}

const SETTLED = Promise.resolve();

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
