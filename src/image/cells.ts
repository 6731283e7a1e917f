/**
 * The map of an image in equal cells, for drawing: how much of each cell is local, and how much is missing; the rest is known to be zero.
 *
 * The work is bounded whatever the size of the disk. Each cell is looked at in a few pieces, and of each piece only so many extents are
 * walked; the rest of a piece that has more is taken to be like what was seen. So a sparse disk of terabytes is shown as it is, and a
 * fragmented one right to the eye. Whatever else the thread has to do gets its turn now and then.
 *
 * What is missing is looked up below: what is zero there needs no fetch. A source may be slow or dead: when the patience is over, or it
 * gives no answer, what it has not called zero counts as missing, and the answer says that it is not complete.
 */
import { type BlockNode, type Clock, chainExtents, type Extent, systemClock } from "../block/index.ts";

/** A part of a disk that is to be shown in cells, at most `count` of them. */
export interface CellsPart {
  readonly offset: number;
  /** Absent: to the end of the disk. */
  readonly length?: number;
  readonly count: number;
}

export interface Cells {
  readonly offset: number;
  /** Bytes of each cell: a multiple of 512. The last one may be shorter. */
  readonly cellLength: number;
  /** One byte a cell: how much of it is data in the image itself, from 0 (nothing) to 255 (all, and only all). */
  readonly local: Uint8Array;
  /** The same of what is missing. */
  readonly missing: Uint8Array;
  /** Whether the layers below have said of all that is missing whether it is zero. */
  readonly complete: boolean;
}

export interface CellsOptions {
  /** How long the layers below may take, in milliseconds. @default 1000 */
  readonly patienceMs?: number;
  readonly clock?: Clock;
}

const SECTOR = 512;
const PIECES = 4;
/** Extents that are walked for one answer, and for one piece at the least. */
const MOST_EXTENTS = 2 ** 18;
const LEAST_A_PIECE = 16;
/** What one call of a node should give, and how many extents are walked without a pause. */
const EXTENTS_A_CALL = 64;
const TURN = 512;

/** Bytes of each kind in what was looked at. */
interface Share {
  local: number;
  missing: number;
}

/** Looks at a part of an image that is open. */
export async function nodeCells(
  node: BlockNode,
  { offset, length, count }: CellsPart,
  { patienceMs = 1000, clock = systemClock }: CellsOptions = {},
): Promise<Cells> {
  const end = Math.min(node.length, offset + (length ?? node.length));
  const span = Math.max(0, end - offset);
  const cellLength = Math.max(1, Math.ceil(span / count / SECTOR)) * SECTOR;
  const cells = Math.ceil(span / cellLength);
  const local = new Uint8Array(cells);
  const missing = new Uint8Array(cells);
  const over = new AbortController();
  const walk = new Walk(node, end, Math.max(LEAST_A_PIECE, Math.floor(MOST_EXTENTS / PIECES / Math.max(1, cells))));
  void clock.sleep(patienceMs, over.signal).then(() => walk.askNoMore());
  try {
    for (let index = 0; index < cells; index++) {
      const from = offset + index * cellLength;
      const size = Math.min(cellLength, end - from);
      const share = await walk.cell(from, size);
      local[index] = inBytes(share.local, size);
      missing[index] = Math.min(inBytes(share.missing, size), 255 - (local[index] ?? 0));
    }
  } finally {
    over.abort();
  }
  return { offset, cellLength, local, missing, complete: walk.complete };
}

/** What is there is seen, and what is not everywhere is not shown as if it were. */
function inBytes(part: number, whole: number): number {
  if (part <= 0) return 0;
  return part >= whole ? 255 : Math.min(254, Math.max(1, Math.round((part / whole) * 255)));
}

/** A walk over an image, ever onwards. */
class Walk {
  readonly #node: BlockNode;
  readonly #end: number;
  readonly #mostAPiece: number;
  /** What the node said last, and where in it the walk is. */
  #extents: readonly Extent[] = [];
  #at = 0;
  /** How far the node is asked ahead. */
  #ahead: number;
  #seen = 0;
  readonly #late = Promise.withResolvers<undefined>();
  #asks = true;
  #complete = true;

  constructor(node: BlockNode, end: number, mostAPiece: number) {
    this.#node = node;
    this.#end = end;
    this.#mostAPiece = mostAPiece;
    this.#ahead = end;
  }

  get complete(): boolean {
    return this.#complete;
  }

  /** What lies below is not waited for any more. */
  askNoMore(): void {
    this.#asks = false;
    this.#late.resolve(undefined);
  }

  async cell(from: number, length: number): Promise<Share> {
    const share = { local: 0, missing: 0 };
    const piece = Math.max(1, Math.ceil(length / PIECES / SECTOR)) * SECTOR;
    const end = from + length;
    for (let start = from; start < end; start += piece) {
      await this.#piece(start, Math.min(end, start + piece), share);
    }
    return share;
  }

  async #piece(from: number, to: number, share: Share): Promise<void> {
    const found = { local: 0, missing: 0 };
    const most = this.#seen + this.#mostAPiece;
    let position = from;
    while (position < to && this.#seen < most) {
      const { kind, offset, length } = await this.#own(position);
      const until = Math.min(to, offset + length);
      if (kind === "data") found.local += until - position;
      position = kind === "missing" ? await this.#below(position, until, most, found) : until;
      await this.#count();
    }
    const scale = (to - from) / (position - from);
    share.local += found.local * scale;
    share.missing += found.missing * scale;
  }

  /** The extent of the image itself in which a position lies. */
  async #own(position: number): Promise<Extent> {
    for (; this.#at < this.#extents.length; this.#at++) {
      const extent = this.#extents[this.#at] as Extent;
      if (position < extent.offset + extent.length) return extent;
    }
    this.#extents = await this.#node.extents(position, Math.min(this.#ahead, this.#end - position));
    this.#at = 0;
    const last = this.#extents.at(-1) as Extent;
    const usual = (last.offset + last.length - position) / this.#extents.length;
    this.#ahead = Math.ceil((usual * EXTENTS_A_CALL) / SECTOR) * SECTOR;
    return this.#extents[0] as Extent;
  }

  /** Looks below where the image has nothing. @returns how far it came */
  async #below(from: number, to: number, most: number, found: Share): Promise<number> {
    const { backing } = this.#node;
    const inside = backing === undefined ? from : Math.max(from, Math.min(to, backing.length));
    if (backing === undefined || inside === from) return to;
    const extents = chainExtents(backing, from, inside - from)[Symbol.asyncIterator]();
    let position = from;
    while (position < inside && this.#seen < most) {
      const extent = await this.#ask(extents);
      if (extent === undefined) {
        this.#complete = false;
        found.missing += inside - position;
        return to;
      }
      const until = extent.offset + extent.length;
      if (extent.kind === "data") found.missing += until - position;
      position = until;
      await this.#count();
    }
    return position < inside ? position : to;
  }

  /** Undefined when there is no answer, or none in time. */
  async #ask(extents: AsyncIterator<Extent, void>): Promise<Extent | undefined> {
    if (!this.#asks) return undefined;
    const answer = extents.next().then(
      ({ value }) => value ?? undefined,
      () => undefined,
    );
    return Promise.race([answer, this.#late.promise]);
  }

  async #count(): Promise<void> {
    if (++this.#seen % TURN === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}
