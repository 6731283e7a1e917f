/**
 * Which places the disks, exports and machines of a daemon need, so that it is told when one has lost the last that needed it: who runs it
 * may switch it off. To say so too early would cost guests their data, and too late costs nothing: so nothing is said while there
 * is an image of which nobody knows what it needs, because it has not been opened yet.
 *
 * It is told once at least, whatever dies when: what each needs is remembered with its record, after what it has left has been told of. After a
 * restart that is what it needed before, and what it needs then says what it has left.
 */
import type { DiskRecord, ExportRecord } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { EventHub } from "./event-hub.ts";

export class SourceNeeds {
  readonly #events: EventHub;
  /** By who needs them; undefined where that is not known yet. */
  readonly #needed = new Map<string, readonly string[] | undefined>();
  /** Of those of whom it is only presumed what they need, what they are known to have needed: the rest they may have left long ago. */
  readonly #remembered = new Map<string, readonly string[]>();
  /** Were needed, and perhaps are no more. */
  readonly #left = new Set<string>();

  readonly #isOwn: (place: string) => boolean;

  /** @param isOwn whether a place is the daemon's own, which nobody else switches off */
  constructor(events: EventHub, isOwn: (place: string) => boolean = () => false) {
    this.#events = events;
    this.#isOwn = isOwn;
  }

  /**
   * One that is not open.
   *
   * @param presumed what it seems to need; undefined for nobody knows
   * @param needed what it needed when that was looked at last
   */
  hold(who: string, presumed: readonly string[] | undefined, needed?: readonly string[]): void {
    this.#needed.set(who, needed === undefined ? presumed : [...needed, ...(presumed ?? [])]);
    this.#remembered.set(who, needed ?? []);
  }

  /**
   * What one needs now. What comes late, of one that has gone, is not listened to.
   *
   * @returns whether all that was left is told of, so that the rest may be remembered
   */
  learn(who: string, places: readonly string[]): Promise<boolean> {
    if (!this.#needed.has(who)) return Promise.resolve(false);
    const before = this.#remembered.get(who) ?? this.#needed.get(who);
    this.#remembered.delete(who);
    this.#needed.set(who, places);
    return this.#leave(before ?? []);
  }

  /** It has gone, and needs nothing any more. Resolves when that is told of. */
  async release(who: string): Promise<void> {
    const before = this.#needed.get(who);
    this.#needed.delete(who);
    this.#remembered.delete(who);
    await this.#leave(before ?? []);
  }

  /** It could not be made: nothing has ever come from where it would have. */
  forget(who: string): void {
    this.#needed.delete(who);
    this.#remembered.delete(who);
    void this.#leave([]);
  }

  async #leave(places: readonly string[]): Promise<boolean> {
    for (const place of places) if (!this.#isOwn(place)) this.#left.add(place);
    const all = [...this.#needed.values()];
    for (const place of all.flat()) if (place !== undefined) this.#left.delete(place);
    if (all.includes(undefined)) return this.#left.size === 0;
    const free = [...this.#left];
    this.#left.clear();
    await Promise.all(
      free.map((source) => {
        const message = `No disk, export or machine of this daemon needs '${source}' any more: it may be switched off`;
        return this.#events.tell("source-free", message, { source });
      }),
    );
    return true;
  }
}

/** What a disk needs by what is remembered of it; undefined when nobody has looked into its image yet. */
export function knownNeeds({ settings: { backing }, known = [], ownsFile }: DiskRecord): readonly string[] | undefined {
  const places = [...(backing === undefined ? [] : [shownReference(backing)]), ...known.map(({ source }) => source)];
  return places.length > 0 || ownsFile ? places : undefined;
}

/** What an export is read from: its image, and what lies below. */
export function exportNeeds({ settings: { image } }: ExportRecord, below: readonly string[]): readonly string[] {
  return [shownReference(image), ...below];
}
