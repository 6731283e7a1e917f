/**
 * What each sector of a disk may hold, at any moment of a journal: the contract of src/block/node.ts as far as it speaks of
 * content. A sector's history is a list of changes, each begun and acknowledged at a moment.
 *
 * A change is *superseded* by another that began after it was acknowledged, once that other counts: for a reader, when it was
 * acknowledged before the read began; after the death of the process, when it was acknowledged; after the loss of power, when a flush
 * that began after its acknowledgement was acknowledged too. What began and is not superseded may be there; nothing else may.
 */
import type { CrashKind } from "./crash-state.ts";
import { valueName } from "./sector-content.ts";

/** What a sector may hold: mostly one value. */
export type Allowed = number | ReadonlySet<number>;

export function allows(allowed: Allowed | undefined, value: number): boolean {
  return typeof allowed === "number" ? allowed === value : allowed?.has(value) === true;
}

export function eitherOf(a: Allowed, b: Allowed): Allowed {
  return a === b ? a : narrow(new Set([...valuesOf(a), ...valuesOf(b)]));
}

export function allowedNames(allowed: Allowed | undefined): string {
  return allowed === undefined ? "nothing" : valuesOf(allowed).map(valueName).join(" or ");
}

function valuesOf(allowed: Allowed): number[] {
  return typeof allowed === "number" ? [allowed] : [...allowed];
}

function narrow(values: ReadonlySet<number>): Allowed {
  const [first] = values;
  return values.size === 1 && first !== undefined ? first : values;
}

const NEVER = Number.POSITIVE_INFINITY;

/** One change of a range of sectors. */
export interface Change {
  readonly value: number;
  readonly begun: number;
  acknowledged: number;
  /** The moment from which on it survives power loss whatever is flushed; resizes are durable by themselves. */
  durable: number;
  /** It may have no effect, so it supersedes nothing: a discard, or what failed. */
  weak: boolean;
}

interface Flush {
  readonly begun: number;
  acknowledged: number;
}

/** A property of the whole disk that changes durably: its length, its link. */
export class DurableHistory<T> {
  readonly #changes: { readonly values: readonly T[]; readonly begun: number; acknowledged: number }[];

  constructor(initial: readonly T[]) {
    this.#changes = [{ values: initial, begun: -1, acknowledged: -1 }];
  }

  /** @returns to be called with the moment of the acknowledgement */
  change(value: T, begun: number): (acknowledged: number) => void {
    const change = { values: [value], begun, acknowledged: NEVER };
    this.#changes.push(change);
    return (acknowledged) => {
      change.acknowledged = acknowledged;
    };
  }

  at(moment: number): readonly T[] {
    const done = this.#changes.findLastIndex(({ acknowledged }) => acknowledged < moment);
    return this.#changes
      .slice(done)
      .filter(({ begun }) => begun < moment)
      .flatMap(({ values }) => values);
  }
}

export class SectorModel {
  readonly #initial: (sector: number, kind: CrashKind) => Allowed;
  readonly #history = new Map<number, Change[]>();
  readonly #flushes: Flush[] = [];

  /** @param initial what a sector may hold before the first moment */
  constructor(initial: (sector: number, kind: CrashKind) => Allowed) {
    this.#initial = initial;
  }

  /** A change of `count` sectors begins. Set `acknowledged` of the result when it is. */
  change(first: number, count: number, value: number, begun: number, weak = false): Change {
    const change: Change = { value, begun, acknowledged: NEVER, durable: NEVER, weak };
    for (let sector = first; sector < first + count; sector++) {
      const history = this.#history.get(sector);
      if (history === undefined) this.#history.set(sector, [change]);
      else history.push(change);
    }
    return change;
  }

  flush(begun: number): Flush {
    const flush = { begun, acknowledged: NEVER };
    this.#flushes.push(flush);
    return flush;
  }

  /** What a sector may hold after a crash at a moment. */
  afterCrash(sector: number, moment: number, kind: CrashKind): Allowed {
    const counts = (change: Change) => (kind === "death" ? change.acknowledged : this.#durableAt(change)) < moment;
    return this.#possible(sector, moment, counts, kind);
  }

  /** What a read from `begun` to `ended` may find. */
  forReader(sector: number, begun: number, ended: number): Allowed {
    return this.#possible(sector, ended, (change) => change.acknowledged < begun, "death");
  }

  #possible(sector: number, before: number, counts: (change: Change) => boolean, kind: CrashKind): Allowed {
    const history = this.#history.get(sector);
    if (history === undefined) return this.#initial(sector, kind);
    let superseding = -1;
    for (const change of history) {
      if (!change.weak && change.begun > superseding && counts(change)) superseding = change.begun;
    }
    const found = new Set<number>(superseding < 0 ? valuesOf(this.#initial(sector, kind)) : []);
    for (const change of history) {
      if (change.begun < before && change.acknowledged >= superseding) found.add(change.value);
    }
    return narrow(found);
  }

  #durableAt(change: Change): number {
    let at = change.durable;
    for (const flush of this.#flushes) {
      if (flush.begun > change.acknowledged && flush.acknowledged < at) at = flush.acknowledged;
    }
    return at;
  }

  /** What happened to a sector, for a message. */
  tell(sector: number): string {
    const history = this.#history.get(sector) ?? [];
    const told = history.map(({ value, begun, acknowledged, weak }) => {
      return `${weak ? "discard" : valueName(value)} from ${begun} to ${acknowledged}`;
    });
    return [`at first ${allowedNames(this.#initial(sector, "death"))}`, ...told].join(", ");
  }
}
