/**
 * Copy-on-read: what a guest reads and the overlay lacks is fetched from below, given to the guest, and kept.
 *
 * A fetch takes whole units (at least a grain, so that it can be kept; at least 64 KiB, so that a walk through a file
 * costs few round trips). While a unit is under way everybody who reads it waits for the same fetch, which stays in the table until its
 * bytes are in the overlay. The guest is answered first; keeping is the overlay's `populate`, so a guest write that came meanwhile
 * wins. A reader looks at the overlay's extents first, so it never takes bytes from a fetch that a write has overtaken.
 *
 * Memory: at most `MOST_PENDING` bytes wait to be kept; then a fetch waits for that. When the disk is full nothing is kept for a
 * while and reads go on.
 */
import { type BlockNode, type Clock, dataRuns, type Extent, type OverlayNode, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";

export interface CopyOnReadOptions {
  /** Whether what is read is kept. @default true */
  readonly keep?: boolean;
  readonly clock?: Clock;
}

/** Counters since the start, in bytes. */
export interface CopyOnReadCounts {
  readonly fetched: number;
  readonly kept: number;
}

const LEAST_UNIT = 64 * 1024;
const MOST_UNITS = 16;
const MOST_PENDING = 16 * 1024 * 1024;
/** After a populate that failed. */
const REST_MS = 10_000;

/** Units [first, first + count) on their way. */
interface Fetch {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly arrived: Promise<void>;
  /** Settles when the bytes are in the overlay, or will not be. Never rejects. */
  readonly kept: Promise<void>;
}

export class CopyOnRead implements BlockNode {
  readonly grows = false;
  readonly #overlay: OverlayNode;
  readonly #unit: number;
  readonly #keep: boolean;
  readonly #clock: Clock;
  readonly #underWay = new Map<number, Fetch>();
  #pending = 0;
  #fetched = 0;
  #kept = 0;
  #restUntil = Number.NEGATIVE_INFINITY;

  /** @param overlay stays its owner's to close */
  constructor(overlay: OverlayNode, { keep = true, clock = systemClock }: CopyOnReadOptions = {}) {
    this.#overlay = overlay;
    this.#unit = Math.max(LEAST_UNIT, overlay.grain);
    this.#keep = keep;
    this.#clock = clock;
  }

  get name(): string {
    return this.#overlay.name;
  }

  get length(): number {
    return this.#overlay.length;
  }

  get readOnly(): boolean {
    return this.#overlay.readOnly;
  }

  get backing(): BlockNode | undefined {
    return this.#overlay.backing;
  }

  get counts(): CopyOnReadCounts {
    return { fetched: this.#fetched, kept: this.#kept };
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    await this.#walk(offset, target.length, async (extent) => {
      const part = target.subarray(extent.offset - offset, extent.offset - offset + extent.length);
      if (extent.kind === "missing") await this.#readMissing(extent.offset, part, signal);
      else await this.#overlay.read(extent.offset, part, signal);
    });
  }

  /** What is local, the overlay itself answers; it says no to what is missing. */
  readNow(offset: number, target: Uint8Array): boolean {
    return this.#overlay.readNow?.(offset, target) ?? false;
  }

  /** Fetches what of a range is missing, and resolves when it is kept. */
  async cache(offset: number, length: number): Promise<void> {
    await this.#walk(offset, length, async (extent) => {
      if (extent.kind !== "missing") return;
      for (const fetch of await this.#fetchAll(extent.offset, extent.length)) {
        await fetch.arrived;
        await fetch.kept;
      }
    });
  }

  /** Acts on every extent of a range, neighbours that are local joined; all of them are under way at once. */
  async #walk(offset: number, length: number, act: (extent: Extent) => Promise<void>): Promise<void> {
    const end = offset + length;
    const doing: Promise<void>[] = [];
    let position = offset;
    while (position < end) {
      const extents = await this.#overlay.extents(position, end - position).catch(async (error: unknown) => {
        // What was begun must not be left alone.
        await Promise.allSettled(doing);
        throw error;
      });
      for (const extent of joinLocal(extents)) {
        doing.push(act(extent));
        position = extent.offset + extent.length;
      }
    }
    for (const result of await Promise.allSettled(doing)) {
      if (result.status === "rejected") throw result.reason;
    }
  }

  async #readMissing(offset: number, part: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    if (!this.#keeps) return this.#overlay.read(offset, part, signal);
    for (const fetch of await this.#fetchAll(offset, part.length)) {
      await fetch.arrived;
      const from = Math.max(offset, fetch.offset);
      const to = Math.min(offset + part.length, fetch.offset + fetch.bytes.length);
      part.set(fetch.bytes.subarray(from - fetch.offset, to - fetch.offset), from - offset);
    }
  }

  get #keeps(): boolean {
    return this.#keep && !this.readOnly && this.#clock.now() >= this.#restUntil;
  }

  /** The fetches that cover a range; those that nobody has begun are begun, all before the first is waited for. */
  async #fetchAll(offset: number, length: number): Promise<Fetch[]> {
    while (this.#pending > MOST_PENDING) await oldest(this.#underWay)?.kept;
    const last = Math.floor((offset + length - 1) / this.#unit);
    const fetches: Fetch[] = [];
    let unit = Math.floor(offset / this.#unit);
    while (unit <= last) {
      const there = this.#underWay.get(unit);
      if (there !== undefined) {
        if (fetches.at(-1) !== there) fetches.push(there);
        unit++;
        continue;
      }
      let count = 1;
      while (count < MOST_UNITS && unit + count <= last && !this.#underWay.has(unit + count)) count++;
      fetches.push(this.#begin(unit, count));
      unit += count;
    }
    return fetches;
  }

  #begin(unit: number, count: number): Fetch {
    const offset = unit * this.#unit;
    const bytes = new Uint8Array(Math.min(count * this.#unit, this.length - offset));
    const arrived = this.#readBelow(offset, bytes);
    const kept = arrived
      .then(() => this.#keepBytes(offset, bytes))
      .catch((error: unknown) => this.#notKept(error))
      .finally(() => {
        this.#pending -= bytes.length;
        for (let i = 0; i < count; i++) this.#underWay.delete(unit + i);
      });
    const fetch = { offset, bytes, arrived, kept };
    // Whoever waits for it is told; nobody may be waiting any more.
    arrived.catch(() => {});
    this.#pending += bytes.length;
    for (let i = 0; i < count; i++) this.#underWay.set(unit + i, fetch);
    return fetch;
  }

  async #readBelow(offset: number, bytes: Uint8Array): Promise<void> {
    const below = this.#overlay.backing;
    const inside = below === undefined ? 0 : Math.max(0, Math.min(bytes.length, below.length - offset));
    if (below !== undefined && inside > 0) await below.read(offset, bytes.subarray(0, inside));
    this.#fetched += inside;
  }

  async #keepBytes(offset: number, bytes: Uint8Array): Promise<void> {
    for (const { start, end, zero } of dataRuns(bytes, this.#overlay.grain)) {
      if (zero) await this.#overlay.populateZeroes(offset + start, end - start);
      else this.#kept += await this.#overlay.populate(offset + start, bytes.subarray(start, end));
    }
  }

  /** A source that failed is the readers' affair; an image that cannot take more is left alone for a while. */
  #notKept(error: unknown): void {
    if (error instanceof StreamdiskError && error.code === "no-space") this.#restUntil = this.#clock.now() + REST_MS;
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#overlay.write(offset, data);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#overlay.writeZeroes(offset, length);
  }

  canZeroFast(offset: number, length: number): boolean {
    return this.#overlay.canZeroFast?.(offset, length) ?? false;
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#overlay.discard(offset, length);
  }

  flush(): Promise<void> {
    return this.#overlay.flush();
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#overlay.extents(offset, length);
  }

  resize(length: number): Promise<void> {
    return this.#overlay.resize(length);
  }

  /** Waits for what is on its way. */
  async close(): Promise<void> {
    await Promise.all([...this.#underWay.values()].map(({ kept }) => kept));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function oldest(fetches: ReadonlyMap<number, Fetch>): Fetch | undefined {
  for (const fetch of fetches.values()) return fetch;
  return undefined;
}

/** Joins neighbours that are both local. */
function joinLocal(extents: readonly Extent[]): Extent[] {
  const joined: Extent[] = [];
  for (const { offset, length, kind } of extents) {
    const last = joined.at(-1);
    const local = kind === "missing" ? kind : "data";
    if (last !== undefined && last.kind === local)
      joined[joined.length - 1] = { ...last, length: last.length + length };
    else joined.push({ offset, length, kind: local, depth: 0 });
  }
  return joined;
}
