/**
 * Which places the disks and exports of a daemon need, so that it is told when one has lost the last that needed it: who runs it may
 * switch it off. To say so too early would cost guests their data, and too late costs nothing: so nothing is said while there
 * is an image of which nobody knows what it needs, because it has not been opened yet.
 */
import type { DiskRecord } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { EventHub } from "./event-hub.ts";

export class SourceNeeds {
  readonly #events: EventHub;
  /** By who needs them; undefined where that is not known yet. */
  readonly #needed = new Map<string, readonly string[] | undefined>();
  /** Of whom it is only remembered what they need: they may have left it long ago, and that was told then. */
  readonly #presumed = new Set<string>();
  /** Were needed, and perhaps are no more. */
  readonly #left = new Set<string>();

  constructor(events: EventHub) {
    this.#events = events;
  }

  /** One that is not open: what is known of it; undefined for nothing. */
  hold(who: string, places: readonly string[] | undefined): void {
    this.#needed.set(who, places);
    this.#presumed.add(who);
  }

  /** What one needs now. What comes late, of one that has gone, is not listened to. */
  learn(who: string, places: readonly string[]): void {
    if (!this.#needed.has(who)) return;
    const before = this.#presumed.delete(who) ? [] : this.#needed.get(who);
    this.#needed.set(who, places);
    this.#leave(before ?? []);
  }

  /** It has gone, and needs nothing any more. */
  release(who: string): void {
    const before = this.#needed.get(who);
    this.#needed.delete(who);
    this.#leave(before ?? []);
  }

  /** It could not be made: nothing has ever come from where it would have. */
  forget(who: string): void {
    this.#needed.delete(who);
    this.#leave([]);
  }

  #leave(places: readonly string[]): void {
    for (const place of places) this.#left.add(place);
    const all = [...this.#needed.values()];
    for (const place of all.flat()) if (place !== undefined) this.#left.delete(place);
    if (all.includes(undefined)) return;
    for (const source of this.#left) {
      const message = `No disk or export of this daemon needs '${source}' any more: it may be switched off`;
      void this.#events.tell("source-free", message, { source });
    }
    this.#left.clear();
  }
}

/** What a disk needs by what is remembered of it; undefined when nobody has looked into its image yet. */
export function knownNeeds({ settings: { backing }, known = [], ownsFile }: DiskRecord): readonly string[] | undefined {
  const places = [...(backing === undefined ? [] : [shownReference(backing)]), ...known.map(({ source }) => source)];
  return places.length > 0 || ownsFile ? places : undefined;
}
