/**
 * What a range consists of, in each metadata context, down the chain.
 *
 * The layer that is exported is always asked. Layers below it are asked as long as they answer soon: they may be far away, or
 * dead. What they don't say is data in `base:allocation`, since missing is never zero unless a source said so.
 *
 * `qemu:allocation-depth` counts as QEMU does: 1 for the exported layer, one more for each below it, 0 for what no layer has. A
 * layer that is too short counts as having the zeroes behind its end.
 */
import { type BlockNode, type Clock, type Extent, isOverlay } from "../../block/index.ts";
import { CONTEXT_ALLOCATION, CONTEXT_DEPTH, CONTEXT_LOCAL, LOCAL_STATE, STATE } from "../protocol.ts";
import type { ContextName } from "./contexts.ts";
import type { StatusRun } from "./reply-codec.ts";

/** Runs of one reply; a client asks again for the rest. */
const MOST_RUNS = 8192;
/** Questions to layers below, and how long they may take together. */
const MOST_ASKED = 64;
const ASKING_MS = 1000;

export interface StatusQuestion {
  readonly node: BlockNode;
  readonly offset: number;
  readonly length: number;
  readonly contexts: readonly ContextName[];
  /** Only the first run of each context. */
  readonly one: boolean;
}

/**
 * @returns for each context, runs that start at `offset` and cover all of the range or the beginning of it
 * @throws {StreamdiskError} what the exported layer throws
 */
export async function blockStatus(question: StatusQuestion, clock: Clock): Promise<Map<ContextName, StatusRun[]>> {
  const walk = new StatusWalk(question, clock);
  try {
    await walk.layer(question.node, question.offset, question.offset + question.length, 0);
  } finally {
    walk.end();
  }
  return new Map(question.contexts.map((name) => [name, runsOf(walk.pieces, name, question.one)]));
}

/** A stretch of one status in every context. */
interface Piece {
  length: number;
  readonly kind: "data" | "zero";
  readonly depth: number;
  /** Whether the exported layer lacks it, and nobody knows it to be zero. */
  readonly missing: boolean;
}

class StatusWalk {
  readonly pieces: Piece[] = [];
  readonly #question: StatusQuestion;
  readonly #clock: Clock;
  readonly #ended = new AbortController();
  /** Contexts of which the first run has ended. */
  readonly #past = new Set<ContextName>();
  #asked = 0;
  #stopped = false;
  #late: Promise<undefined> | undefined;

  constructor(question: StatusQuestion, clock: Clock) {
    this.#question = question;
    this.#clock = clock;
  }

  end(): void {
    this.#ended.abort();
  }

  /** @param above how many layers lie above this one */
  async layer(node: BlockNode, from: number, end: number, above: number): Promise<void> {
    let position = from;
    while (position < end && !this.#enough) {
      if (above > 0 && this.#asked >= MOST_ASKED && this.pieces.length > 0) {
        this.#stopped = true;
        return;
      }
      const extents = above === 0 ? await node.extents(position, end - position) : await this.#ask(node, position, end);
      if (extents === undefined) {
        this.#add({ length: end - position, kind: "data", depth: above + 1, missing: true });
        return;
      }
      for (const extent of extents) {
        if (this.#enough) return;
        position = extent.offset + extent.length;
        if (extent.kind === "missing") await this.#below(node, extent, above);
        else this.#add({ length: extent.length, kind: extent.kind, depth: above + 1, missing: above > 0 });
      }
    }
  }

  async #below(node: BlockNode, { offset, length }: Extent, above: number): Promise<void> {
    const { backing } = node;
    if (backing === undefined) {
      const named = isOverlay(node) && node.backingReference !== undefined;
      // It names a layer that is not open: somebody has the bytes.
      if (named) this.#add({ length, kind: "data", depth: above + 2, missing: true });
      else this.#add({ length, kind: "zero", depth: 0, missing: false });
      return;
    }
    const inside = Math.max(0, Math.min(length, backing.length - offset));
    if (inside > 0) await this.layer(backing, offset, offset + inside, above + 1);
    if (inside < length && !this.#enough) {
      this.#add({ length: length - inside, kind: "zero", depth: above + 2, missing: false });
    }
  }

  /** @returns undefined when the layer does not answer */
  async #ask(node: BlockNode, from: number, end: number): Promise<Extent[] | undefined> {
    this.#asked++;
    this.#late ??= this.#clock.sleep(ASKING_MS, this.#ended.signal).then(() => undefined);
    const answer = node.extents(from, end - from).catch(() => undefined);
    return Promise.race([answer, this.#late]);
  }

  get #enough(): boolean {
    const { one, contexts } = this.#question;
    return this.#stopped || this.pieces.length >= MOST_RUNS || (one && this.#past.size === contexts.length);
  }

  #add(piece: Piece): void {
    const { pieces } = this;
    const last = pieces.at(-1);
    if (
      last !== undefined &&
      last.kind === piece.kind &&
      last.depth === piece.depth &&
      last.missing === piece.missing
    ) {
      last.length += piece.length;
      return;
    }
    pieces.push(piece);
    const first = pieces[0] as Piece;
    for (const name of this.#question.contexts) {
      if (flagsOf(piece, name) !== flagsOf(first, name)) this.#past.add(name);
    }
  }
}

function flagsOf({ kind, depth, missing }: Piece, name: ContextName): number {
  switch (name) {
    case CONTEXT_ALLOCATION:
      return kind === "zero" ? STATE.HOLE | STATE.ZERO : 0;
    case CONTEXT_DEPTH:
      return depth;
    case CONTEXT_LOCAL:
      if (kind === "zero") return LOCAL_STATE.ZERO;
      return missing ? LOCAL_STATE.MISSING : 0;
  }
}

function runsOf(pieces: readonly Piece[], name: ContextName, one: boolean): StatusRun[] {
  const runs: { length: number; flags: number }[] = [];
  for (const piece of pieces) {
    const flags = flagsOf(piece, name);
    const last = runs.at(-1);
    if (last?.flags === flags) last.length += piece.length;
    else if (one && last !== undefined) break;
    else runs.push({ length: piece.length, flags });
  }
  return runs;
}
