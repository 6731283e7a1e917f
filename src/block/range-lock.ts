/**
 * A lock over ranges of numbers. Ranges are granted first come first served: one waits for every earlier range, held or
 * waiting, that overlaps it, so nobody starves and two holders never overlap unless both are shared. There is no upgrade; a
 * holder that takes a second, overlapping range waits for itself.
 */

/** A granted range: `release` it exactly once. */
export interface RangeLockHandle {
  readonly start: number;
  readonly end: number;
  readonly shared: boolean;
}

interface Entry extends RangeLockHandle {
  /** How many earlier entries stand in the way. */
  blockers: number;
  waiting: Entry[] | undefined;
  grant: (() => void) | undefined;
}

export class RangeLock {
  readonly #entries = new Set<Entry>();

  /** Takes [start, end) at once when nothing overlaps, or returns undefined without waiting. */
  tryAcquire(start: number, end: number, shared = false): RangeLockHandle | undefined {
    for (const other of this.#entries) {
      if (conflicts(other, start, end, shared)) return undefined;
    }
    const entry: Entry = { start, end, shared, blockers: 0, waiting: undefined, grant: undefined };
    this.#entries.add(entry);
    return entry;
  }

  /** Takes [start, end), after all that came before and overlaps. */
  acquire(start: number, end: number, shared = false): RangeLockHandle | Promise<RangeLockHandle> {
    const entry: Entry = { start, end, shared, blockers: 0, waiting: undefined, grant: undefined };
    for (const other of this.#entries) {
      if (!conflicts(other, start, end, shared)) continue;
      entry.blockers++;
      other.waiting ??= [];
      other.waiting.push(entry);
    }
    this.#entries.add(entry);
    if (entry.blockers === 0) return entry;
    return new Promise((resolve) => {
      entry.grant = () => resolve(entry);
    });
  }

  release(handle: RangeLockHandle): void {
    const entry = handle as Entry;
    this.#entries.delete(entry);
    for (const next of entry.waiting ?? []) {
      if (--next.blockers === 0) next.grant?.();
    }
  }
}

function conflicts(other: Entry, start: number, end: number, shared: boolean): boolean {
  return other.start < end && start < other.end && !(shared && other.shared);
}
