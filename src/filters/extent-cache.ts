/**
 * Remembers what a source said of its extents, and answers reads of what it called zero without asking it again: neither
 * the wire nor the source's death matters to them.
 *
 * Extents are asked for in whole regions, once each, when something in the region is first looked at. A source does not
 * change while it is a source, so nothing is ever forgotten but for want of room.
 */
import type { Extent } from "../block/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";

const REGION = 64 * 1024 * 1024;
/** Over all regions: some tens of MiB of memory. */
const MOST_EXTENTS = 256 * 1024;

export class ExtentCache extends ReadOnlyFilter {
  readonly #regions = new Map<number, readonly Extent[]>();
  readonly #asking = new Map<number, Promise<readonly Extent[]>>();
  #count = 0;

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (this.knownZero(offset, target.length)) target.fill(0);
    else await this.source.read(offset, target, signal);
  }

  /** Whether the source has said already that all of a range is zero. */
  knownZero(offset: number, length: number): boolean {
    let position = offset;
    const end = offset + length;
    while (position < end) {
      const extent = find(this.#regions.get(Math.floor(position / REGION)), position);
      if (extent === undefined || !this.#isZero(extent)) return false;
      position = extent.offset + extent.length;
    }
    return true;
  }

  #isZero({ kind }: Extent): boolean {
    return kind === "zero" || (kind === "missing" && this.source.backing === undefined);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    const index = Math.floor(offset / REGION);
    const end = Math.min(offset + length, (index + 1) * REGION);
    const known = this.#regions.get(index) ?? (await this.#ask(index));
    const found: Extent[] = [];
    for (const extent of known) {
      const from = Math.max(offset, extent.offset);
      const to = Math.min(end, extent.offset + extent.length);
      if (from < to) found.push(clip(extent, from, to));
    }
    return found;
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
    for (const [other, kept] of this.#regions) {
      if (this.#count <= MOST_EXTENTS || other === index) return;
      this.#regions.delete(other);
      this.#count -= kept.length;
    }
  }
}

/** The extent that contains `position`, by bisection. */
function find(extents: readonly Extent[] | undefined, position: number): Extent | undefined {
  if (extents === undefined) return undefined;
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const extent = extents[middle] as Extent;
    if (extent.offset + extent.length <= position) low = middle + 1;
    else high = middle;
  }
  return extents[low];
}

function clip(extent: Extent, from: number, to: number): Extent {
  const moved = extent.hostOffset === undefined ? {} : { hostOffset: extent.hostOffset + (from - extent.offset) };
  return { ...extent, ...moved, offset: from, length: to - from };
}
