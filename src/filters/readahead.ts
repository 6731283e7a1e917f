/**
 * Reads ahead of whoever walks through a source with small requests, one after the other: each would cost a round trip.
 *
 * A *walk* is a row of reads of which each begins where the one before ended, or a little further on (holes are skipped), or a
 * little before (compressed clusters share a sector). From the third read on, what comes next is fetched in chunks, twice as far
 * with each read, at most `FARTHEST`. Who has many requests under way, as the stream job, or asks for much at a time, needs no help
 * and gets none.
 *
 * It belongs above the cache of extents, so that no hole is fetched, and above the watch: nothing is fetched from a source that is
 * lost. A chunk is dropped once a read begins behind it; so are all of a walk's when it makes room for another. At most
 * `MOST_WALKS` times `FARTHEST` and a chunk are held. A chunk that fails tells nobody: what it was for is read again.
 */
import { type Extent, letGo, whileWanted } from "../block/index.ts";
import { ReadOnlyFilter } from "./read-only-filter.ts";
import { together } from "./together.ts";

const MOST_WALKS = 4;
const CHUNK = 256 * 1024;
const FARTHEST = 1024 * 1024;
/** A read of so much is worth its round trip. */
const LARGE = 512 * 1024;
/** Requests that a walk may have under way. */
const MOST_AT_ONCE = 2;
/** Reads in a row that make a walk. */
const SURE = 3;

interface Chunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** False when it failed. */
  readonly arrived: Promise<boolean>;
  /** Reads that wait for it. */
  users: number;
  /** Nobody else will ask for it. */
  dropped: boolean;
}

interface Walk {
  /** Where its last read began. */
  last: number;
  /** Where that ended, and the next one begins. */
  next: number;
  reads: number;
  underWay: number;
  /** How far ahead of `next` it is to be. */
  distance: number;
  /** In order, touching. */
  chunks: Chunk[];
}

export class Readahead extends ReadOnlyFilter {
  /** The one that was used last comes last. */
  readonly #walks: Walk[] = [];

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (target.length >= LARGE) return this.source.read(offset, target, signal);
    const walk = this.#walkAt(offset);
    if (offset + target.length > walk.next) walk.reads++;
    walk.last = offset;
    walk.next = Math.max(walk.next, offset + target.length);
    walk.underWay++;
    try {
      if (walk.underWay <= MOST_AT_ONCE && walk.reads >= SURE) this.#reachOut(walk);
      const chunks = walk.chunks.filter((chunk) => endOf(chunk) > offset && chunk.offset < offset + target.length);
      const filling = this.#fill(offset, target, chunks, signal);
      drop(walk, walk.last);
      await filling;
    } finally {
      walk.underWay--;
    }
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.source.extents(offset, length);
  }

  override async close(): Promise<void> {
    for (const walk of this.#walks.splice(0)) drop(walk, Number.POSITIVE_INFINITY);
    await super.close();
  }

  /** The walk that a read goes on with, or a new one in place of the one that has rested longest. */
  #walkAt(offset: number): Walk {
    const index = this.#walks.findIndex(({ last, next, distance }) => offset >= last && offset <= next + distance);
    const [found] = index < 0 ? [] : this.#walks.splice(index, 1);
    const walk = found ?? { last: offset, next: offset, reads: 0, underWay: 0, distance: 0, chunks: [] };
    this.#walks.push(walk);
    const rested = this.#walks.length > MOST_WALKS ? this.#walks.shift() : undefined;
    if (rested !== undefined) drop(rested, Number.POSITIVE_INFINITY);
    return walk;
  }

  /** Begins to fetch what comes after the read that has just been made. */
  #reachOut(walk: Walk): void {
    walk.distance = Math.min(Math.max(CHUNK, walk.distance * 2), FARTHEST);
    const end = Math.min(walk.next + walk.distance, this.length);
    const last = walk.chunks.at(-1);
    let position = Math.max(walk.next, last === undefined ? 0 : endOf(last));
    while (position < end) {
      // Aligned, so that the pieces of a cluster are not asked for twice.
      const length = Math.min(CHUNK - (position % CHUNK), this.length - position);
      const bytes = new Uint8Array(length);
      const arrived = this.source.read(position, bytes).then(
        () => true,
        () => false,
      );
      walk.chunks.push({ offset: position, bytes, arrived, users: 0, dropped: false });
      position += length;
    }
  }

  #fill(offset: number, target: Uint8Array, chunks: readonly Chunk[], signal: AbortSignal | undefined): Promise<void> {
    if (chunks.length === 0) return this.source.read(offset, target, signal);
    return together(async (add) => {
      const end = offset + target.length;
      const part = (from: number, to: number) => target.subarray(from - offset, to - offset);
      let position = offset;
      for (const chunk of chunks) {
        if (chunk.offset > position) add(this.source.read(position, part(position, chunk.offset), signal));
        position = Math.max(position, chunk.offset);
        const to = Math.min(end, endOf(chunk));
        add(this.#take(chunk, position, part(position, to), signal));
        position = to;
      }
      if (position < end) add(this.source.read(position, part(position, end), signal));
    });
  }

  async #take(chunk: Chunk, offset: number, part: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    chunk.users++;
    try {
      if (await whileWanted(chunk.arrived, signal)) {
        part.set(chunk.bytes.subarray(offset - chunk.offset, offset - chunk.offset + part.length));
        return;
      }
    } finally {
      chunk.users--;
      giveBack(chunk);
    }
    await this.source.read(offset, part, signal);
  }
}

function endOf({ offset, bytes }: Chunk): number {
  return offset + bytes.length;
}

/** Lets go of what a walk that has come to `position` is past. */
function drop(walk: Walk, position: number): void {
  const past = walk.chunks.filter((chunk) => endOf(chunk) <= position);
  walk.chunks = walk.chunks.filter((chunk) => endOf(chunk) > position);
  for (const chunk of past) {
    chunk.dropped = true;
    giveBack(chunk);
  }
}

/** Nobody has any use for it any more, once it has arrived. */
function giveBack(chunk: Chunk): void {
  if (chunk.dropped && chunk.users === 0) void chunk.arrived.then(() => letGo(chunk.bytes));
}
