/**
 * Copy-on-read: what a guest reads and the overlay lacks is fetched from below, given to the guest, and kept.
 *
 * The overlay's extents are asked first, always: so a reader never takes bytes from a fetch that a finished write has overtaken.
 * Where something is missing, the layers below are asked for their extents next. What they say is zero is answered as it is,
 * neither fetched nor kept. The rest is fetched in whole units (`FetchTable`), which readers share; they are
 * answered when it has arrived, and it is kept by the overlay's `populate` after that, so a guest's write always wins.
 *
 * The link to what is below may be dropped at any time, since the stream drops it when nothing is missing. A reader goes on with
 * the backing node that was there when it asked for the extents: what it finds missing reads there as it did. A request that
 * fails because that one was closed meanwhile is done again.
 *
 * When the image cannot take more (no space), nothing is kept for a while and reads go on.
 */
import {
  type BlockNode,
  type Clock,
  chainExtents,
  type Extent,
  type GuestNode,
  type OverlayNode,
  systemClock,
  validateOpen,
  validateRange,
  whileWanted,
} from "../block/index.ts";
import { type Fetch, FetchTable, type FetchTableOptions } from "./fetch-table.ts";
import { together } from "./together.ts";

export interface CopyOnReadOptions {
  /** Whether what is read is kept. @default true */
  readonly keep?: boolean;
  readonly onFetch?: FetchTableOptions["onFetch"];
  readonly clock?: Clock;
}

/** Counters since the start, in bytes. */
export interface CopyOnReadCounts {
  readonly fetched: number;
  readonly kept: number;
}

/** How long nothing is kept after a failure to keep. */
const REST_MS = 10_000;

export class CopyOnRead implements GuestNode {
  readonly grows = false;
  readonly #overlay: OverlayNode;
  readonly #keep: boolean;
  readonly #clock: Clock;
  readonly #fetches: FetchTable;
  #restUntil = Number.NEGATIVE_INFINITY;
  #closed = false;

  /** @param overlay stays its owner's to close */
  constructor(overlay: OverlayNode, { keep = true, onFetch, clock = systemClock }: CopyOnReadOptions = {}) {
    this.#overlay = overlay;
    this.#keep = keep;
    this.#clock = clock;
    const onNotKept = (): void => {
      this.#restUntil = clock.now() + REST_MS;
    };
    this.#fetches = new FetchTable(overlay, { onNotKept, onFetch });
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
    return { fetched: this.#fetches.fetched, kept: this.#fetches.kept };
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#whateverLink("read", offset, target.length, () => {
      if (!this.#keep || this.readOnly || this.#clock.now() < this.#restUntil) {
        return this.#overlay.read(offset, target, signal);
      }
      const isSmall = target.length > 0 && this.#fetches.isInOne(offset, target.length);
      return isSmall ? this.#readSmall(offset, target, signal) : this.#readParts(offset, target, signal);
    });
  }

  /**
   * The usual read of a guest: inside one unit, and all of it in one place. By the rules of the others, with few promises; what is
   * not so simple goes the others' way.
   */
  async #readSmall(offset: number, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { length } = target;
    const below = this.#overlay.backing;
    const [own] = await this.#overlay.extents(offset, length);
    if (own?.length !== length) return this.#readParts(offset, target, signal);
    if (own.kind !== "missing") return this.#overlay.read(offset, target, signal);
    if (below === undefined || offset + length > below.length) return this.#readParts(offset, target, signal);
    const [lower] = await below.extents(offset, length);
    const fetch =
      lower?.kind === "data" && lower.length === length ? this.#take(offset, length, below, signal) : undefined;
    const start = offset - (fetch?.offset ?? 0);
    if (fetch === undefined || start + length > fetch.bytes.length) return this.#readParts(offset, target, signal);
    await whileWanted(fetch.arrived, signal);
    target.set(fetch.bytes.subarray(start, start + length));
  }

  /** A fetch for a range inside one unit; undefined when it has to wait for room. */
  #take(offset: number, length: number, below: BlockNode, signal: AbortSignal | undefined): Fetch | undefined {
    signal?.throwIfAborted();
    validateOpen(this, "read", this.#closed);
    return this.#fetches.takeNow(offset, offset + length, below);
  }

  #readParts(offset: number, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const part = (extent: Extent) => target.subarray(extent.offset - offset, extent.offset - offset + extent.length);
    return this.#walk(offset, target.length, (extent, below) => {
      if (below === undefined) return this.#overlay.read(extent.offset, part(extent), signal);
      return this.#readMissing(extent, below, part(extent), signal);
    });
  }

  /** What is local, the overlay itself answers; it says no to what is missing. */
  readNow(offset: number, target: Uint8Array): boolean {
    return this.#overlay.readNow?.(offset, target) ?? false;
  }

  /**
   * Fetches what of a range is missing, and resolves when it is kept; also with `keep` off, and while reads keep nothing for
   * want of room.
   */
  cache(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    return this.#whateverLink("cache", offset, length, () =>
      this.#walk(offset, length, async (extent, below) => {
        if (below === undefined) return;
        await this.#eachFetch(extent, below, signal, async (fetch) => {
          await whileWanted(fetch.arrived, signal);
          await whileWanted(fetch.kept, signal);
          if (fetch.failure !== undefined) throw fetch.failure.error;
        });
      }),
    );
  }

  /** Does a request, and again when it has failed while the link was changed: what it went to below may be closed by now. */
  async #whateverLink(operation: string, offset: number, length: number, act: () => Promise<void>): Promise<void> {
    validateOpen(this, operation, this.#closed);
    validateRange(this, operation, offset, length);
    for (;;) {
      const below = this.#overlay.backing;
      try {
        return await act();
      } catch (error) {
        if (this.#overlay.backing === below) throw error;
      }
    }
  }

  /**
   * Acts on every extent of a range, neighbours that are local joined; all of them are under way at once.
   * @param act gets the layer below for an extent that is missing
   */
  #walk(
    offset: number,
    length: number,
    act: (extent: Extent, below: BlockNode | undefined) => Promise<void>,
  ): Promise<void> {
    return together(async (add) => {
      const end = offset + length;
      for (let position = offset; position < end; ) {
        const below = this.#overlay.backing;
        const extents = await this.#overlay.extents(position, end - position);
        for (const extent of joinLocal(extents)) {
          if (!add(act(extent, extent.kind === "missing" ? below : undefined))) return;
          position = extent.offset + extent.length;
        }
      }
    });
  }

  async #readMissing(
    extent: Extent,
    below: BlockNode,
    part: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    // What no fetch is for is zero.
    part.fill(0);
    const copy = async (fetch: Fetch, from: number, to: number): Promise<void> => {
      await whileWanted(fetch.arrived, signal);
      part.set(fetch.bytes.subarray(from - fetch.offset, to - fetch.offset), from - extent.offset);
    };
    await this.#eachFetch(extent, below, signal, copy);
  }

  /** Calls `use` with each fetch that a missing range needs, and the part of the range that it is needed for. */
  #eachFetch(
    { offset, length }: Extent,
    below: BlockNode,
    signal: AbortSignal | undefined,
    use: (fetch: Fetch, from: number, to: number) => Promise<void>,
  ): Promise<void> {
    const inside = Math.min(length, below.length - offset);
    if (inside <= 0) return Promise.resolve();
    return together(async (add) => {
      for await (const extent of chainExtents(below, offset, inside)) {
        if (extent.kind !== "data") continue;
        const end = extent.offset + extent.length;
        for (let position = extent.offset; position < end; ) {
          signal?.throwIfAborted();
          validateOpen(this, "read", this.#closed);
          const fetch = await this.#fetches.take(position, end, below);
          const to = Math.min(end, fetch.offset + fetch.bytes.length);
          if (!add(use(fetch, position, to))) return;
          position = to;
        }
      }
    });
  }

  /** A write of part of what is missing reads the rest from below. */
  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#whateverLink("write", offset, data.length, () => this.#overlay.write(offset, data));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#whateverLink("write zeroes to", offset, length, () => this.#overlay.writeZeroes(offset, length));
  }

  canZeroFast(offset: number, length: number): boolean {
    return this.#overlay.canZeroFast?.(offset, length) ?? false;
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#whateverLink("discard", offset, length, () => this.#overlay.discard(offset, length));
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

  /** Waits for what is on its way, and begins nothing more. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#fetches.settle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
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
