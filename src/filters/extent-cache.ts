/**
 * Remembers what a source said of its extents, and answers reads of what it called zero without asking it again: neither
 * the wire nor the source's death matters to them. What it has not said anything of is never taken for zero.
 *
 * Extents are asked for in whole regions, once each, when something in the region is first looked at or read. Whoever looks at more
 * than a region gets the next ones asked for at the same time: or a walk over a disk would take a round trip for each of them. A
 * source does not change while it is a source, so nothing is ever forgotten but for want of room.
 *
 * What an earlier life of the disk learned (`remembered`) counts only where the source cannot be asked, because it is lost: one that
 * can be asked is asked anew.
 */
import { type BlockNode, type Extent, tidyZeroes, validateRange, type ZeroRanges, zeroUntil } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

const REGION = 64 * 1024 * 1024;
/** Regions that are asked for ahead of a walk. */
const FARTHEST_AHEAD = 32;
/** About so many extents are told by one call. */
const MOST_AT_ONCE = 4096;
/** Over all regions: some tens of MiB of memory. */
const MOST_EXTENTS = 256 * 1024;

export interface ExtentCacheOptions {
  /** What the same version of the source was known to have as zeroes before. @default none */
  readonly remembered?: ZeroRanges;
  /** Called when more is known. */
  readonly onLearn?: () => void;
}

export class ExtentCache extends ReadOnlyFilter {
  readonly #regions = new Map<number, readonly Extent[]>();
  readonly #asking = new Map<number, Promise<readonly Extent[]>>();
  readonly #remembered: ZeroRanges;
  readonly #onLearn: () => void;
  #count = 0;

  constructor(source: BlockNode, { remembered = [], onLearn = () => {} }: ExtentCacheOptions = {}) {
    super(source);
    this.#remembered = remembered;
    this.#onLearn = onLearn;
  }

  /** What is known to be zero, as far as it is among the `most` largest ranges. */
  zeroes(most: number): ZeroRanges {
    const known: (readonly [number, number])[] = [];
    for (const extents of this.#regions.values()) {
      for (const extent of extents) if (this.#isZero(extent)) known.push([extent.offset, extent.length]);
    }
    for (const [offset, length] of this.#remembered) {
      for (let position = offset; position < offset + length; ) {
        const index = Math.floor(position / REGION);
        const end = Math.min(offset + length, (index + 1) * REGION);
        if (!this.#regions.has(index)) known.push([position, end - position]);
        position = end;
      }
    }
    return tidyZeroes(known, most);
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const isLost = await this.#learn(offset, target.length);
    const end = offset + target.length;
    if (this.knownZero(offset, target.length)) target.fill(0);
    else if (isLost && zeroUntil(this.#remembered, offset) >= end) target.fill(0);
    else await this.source.read(offset, target, signal);
  }

  /**
   * Asks for the extents of a range that is about to be read. A failure is left to the read to tell of.
   *
   * @returns whether the source is lost
   */
  async #learn(offset: number, length: number): Promise<boolean> {
    const end = Math.min(offset + length, this.length);
    for (let index = Math.floor(offset / REGION); index * REGION < end; index++) {
      if (this.#regions.has(index)) continue;
      try {
        await this.#ask(index);
      } catch (error) {
        if (isLoss(error)) return true;
      }
    }
    return false;
  }

  /** Whether the source has said already that all of a range is zero. */
  knownZero(offset: number, length: number): boolean {
    let position = offset;
    const end = offset + length;
    while (position < end) {
      const known = this.#regions.get(Math.floor(position / REGION)) ?? [];
      const extent = known[indexAt(known, position)];
      if (extent === undefined || !this.#isZero(extent)) return false;
      position = extent.offset + extent.length;
    }
    return true;
  }

  #isZero({ kind }: Extent): boolean {
    return kind === "zero" || (kind === "missing" && this.source.backing === undefined);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    validateRange(this, "map", offset, length);
    const first = Math.floor(offset / REGION);
    const end = offset + length;
    this.#askAhead(first, end);
    const found: Extent[] = [];
    const recalled = (error: unknown) => this.#recall(offset, Math.min(end, (first + 1) * REGION), error);
    let known: readonly Extent[] | undefined = this.#regions.get(first) ?? (await this.#ask(first).catch(recalled));
    // What is known of the regions after it is told at once: a disk of terabytes has a great many.
    for (let index = first; known !== undefined && found.length < MOST_AT_ONCE; known = this.#regions.get(++index)) {
      const regionEnd = Math.min(end, (index + 1) * REGION);
      for (let i = indexAt(known, offset); i < known.length; i++) {
        const extent = known[i] as Extent;
        if (extent.offset >= regionEnd) break;
        append(
          found,
          clip(extent, Math.max(offset, extent.offset), Math.min(regionEnd, extent.offset + extent.length)),
        );
      }
      // What is recalled need not go as far as its region.
      const last = found.at(-1) as Extent;
      if (regionEnd === end || last.offset + last.length < regionEnd) break;
    }
    return found;
  }

  /** What is remembered of a place, in place of what a lost source would say. */
  #recall(offset: number, end: number, error: unknown): readonly Extent[] {
    const until = Math.min(zeroUntil(this.#remembered, offset), end);
    if (!isLoss(error) || until <= offset) throw error;
    return [{ offset, length: until - offset, kind: "zero", depth: 0 }];
  }

  /** Whoever comes there asks again for what fails. */
  #askAhead(index: number, end: number): void {
    // No more than there is room for until the walk comes there.
    const usual = Math.max(1, this.#count) / Math.max(1, this.#regions.size);
    const farthest = index + Math.min(FARTHEST_AHEAD, MOST_EXTENTS / 2 / usual);
    for (let ahead = index; ahead <= farthest && ahead * REGION < end; ahead++) {
      if (!this.#regions.has(ahead)) this.#ask(ahead).catch(() => {});
    }
  }

  #ask(index: number): Promise<readonly Extent[]> {
    let asking = this.#asking.get(index);
    if (asking === undefined) {
      asking = this.#askSource(index).finally(() => this.#asking.delete(index));
      this.#asking.set(index, asking);
    }
    return asking;
  }

  async #askSource(index: number): Promise<readonly Extent[]> {
    const extents: Extent[] = [];
    const end = Math.min((index + 1) * REGION, this.length);
    let position = index * REGION;
    while (position < end) {
      for (const extent of await this.source.extents(position, end - position)) {
        extents.push(extent);
        position = extent.offset + extent.length;
      }
    }
    this.#keep(index, extents);
    return extents;
  }

  #keep(index: number, extents: readonly Extent[]): void {
    this.#regions.set(index, extents);
    this.#count += extents.length;
    this.#onLearn();
    for (const [other, kept] of this.#regions) {
      if (this.#count <= MOST_EXTENTS || other === index) return;
      this.#regions.delete(other);
      this.#count -= kept.length;
    }
  }
}

function isLoss(error: unknown): boolean {
  return error instanceof StreamdiskError && error.code === "source-lost";
}

/** The index of the extent that contains `position`, by bisection; the length of the list when it ends before. */
function indexAt(extents: readonly Extent[], position: number): number {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const extent = extents[middle] as Extent;
    if (extent.offset + extent.length <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

function clip(extent: Extent, from: number, to: number): Extent {
  const moved = extent.hostOffset === undefined ? {} : { hostOffset: extent.hostOffset + (from - extent.offset) };
  return { ...extent, ...moved, offset: from, length: to - from };
}

/** Adds an extent, joined to the last one when both say the same. */
function append(found: Extent[], next: Extent): void {
  const last = found.at(-1);
  const same = last !== undefined && last.kind === next.kind && last.depth === next.depth;
  const touches =
    same &&
    last.compressed === next.compressed &&
    (last.hostOffset === undefined ? next.hostOffset === undefined : last.hostOffset + last.length === next.hostOffset);
  if (touches) found[found.length - 1] = { ...last, length: last.length + next.length };
  else found.push(next);
}
