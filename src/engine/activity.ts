/**
 * What goes on in a disk, for whoever draws it: which ranges became local, and by whom; which are on their way, and which guests wait
 * for. What is on its way is always known, since each of those costs a trip to the source anyway; all else is noted only while
 * somebody watches, and told at most four times a second, in a message that is small whatever happened.
 */
import { RangeList } from "./range-list.ts";

/** What has happened since the last message. Ranges are offset and length, one after the other, in bytes. */
export interface DiskChanges {
  /** Became local by the stream. */
  readonly fetched: readonly number[];
  /** Became local because a guest has read it. */
  readonly read: readonly number[];
  /** Written by a guest. */
  readonly written: readonly number[];
  /** Zeroed or discarded by a guest. */
  readonly zeroed: readonly number[];
  /** On their way from the source, now. */
  readonly inFlight: readonly number[];
  /** What requests of guests wait for, now: they are held until the source is back. */
  readonly waiting: readonly number[];
  /** Ranges had to be widened, or messages left out: whoever wants to know exactly asks for the map again. */
  readonly inexact: boolean;
}

export interface Range {
  readonly offset: number;
  readonly length: number;
}

const TELL_MS = 250;
type Act = "fetched" | "read" | "written" | "zeroed";

export class Activity {
  readonly #underWay = new Set<Range>();
  readonly #waiting = new Set<Range>();
  readonly #done: Readonly<Record<Act, RangeList>> = {
    fetched: new RangeList(),
    read: new RangeList(),
    written: new RangeList(),
    zeroed: new RangeList(),
  };
  #timer: NodeJS.Timeout | undefined;
  #changed = false;

  get isWatched(): boolean {
    return this.#timer !== undefined;
  }

  /** @param tell called from now on when there is something to take; undefined when nobody watches any more */
  watch(tell: (() => void) | undefined): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (tell === undefined) this.take();
    else this.#timer = setInterval(() => this.#changed && tell(), TELL_MS).unref();
  }

  /** Something has changed that the message tells of, beside ranges. */
  touch(): void {
    this.#changed = true;
  }

  /** A range is on its way from the source. @returns what is to be called when it has arrived (`by` whom it is local) or will not */
  begin(range: Range): (by?: Act) => void {
    this.#underWay.add(range);
    this.#changed = true;
    return (by) => {
      this.#underWay.delete(range);
      this.#changed = true;
      if (by !== undefined) this.note(by, range);
    };
  }

  /** A request of a guest waits for a range. @returns what is to be called when it waits no more */
  wait(range: Range): () => void {
    this.#waiting.add(range);
    this.#changed = true;
    return () => {
      this.#waiting.delete(range);
      this.#changed = true;
    };
  }

  note(act: Act, { offset, length }: Range): void {
    if (!this.isWatched) return;
    this.#done[act].add(offset, length);
    this.#changed = true;
  }

  /** What goes on now. It takes nothing from what is to be told. */
  now(): DiskChanges {
    const nothing = { fetched: [], read: [], written: [], zeroed: [] };
    return { ...nothing, inFlight: joined(this.#underWay), waiting: joined(this.#waiting), inexact: false };
  }

  /** The same, and what has happened since the last time. */
  take(): DiskChanges {
    this.#changed = false;
    const { fetched, read, written, zeroed } = this.#done;
    const inexact = [fetched, read, written, zeroed].some((list) => list.widened);
    const taken = { fetched: fetched.take(), read: read.take(), written: written.take(), zeroed: zeroed.take() };
    return { ...this.now(), ...taken, inexact };
  }
}

function joined(ranges: Iterable<Range>): number[] {
  const list = new RangeList();
  for (const { offset, length } of ranges) list.add(offset, length);
  return list.take();
}
