/**
 * What is left of a file after a crash at a moment of its journal.
 *
 * - *death* of the process: all that was complete, in the kernel; a change under way happened whole, not at all, or up to a border
 *   of sectors. The log of mappings is as it was.
 * - *loss* of power: what the last flush that had ended covers. Of everything later, each sector has on its own any one of the
 *   contents that it had since then; the length of the file is one of those since. The log is gone.
 */
import type { MappingRecord } from "../../src/formats/index.ts";
import { below, chance, oneOf, type Random, shuffled } from "./draw.ts";
import { cutChange, type FileBytes, type FileChange, SECTOR, touchedSectors } from "./file-bytes.ts";
import type { JournalEvent } from "./journal.ts";
import { LogRecords } from "./memory-log.ts";

export const CRASH_KINDS = ["death", "loss"] as const;
export type CrashKind = (typeof CRASH_KINDS)[number];

export interface CrashState {
  readonly bytes: FileBytes;
  readonly log: readonly MappingRecord[];
}

/** A change that is complete. */
interface Completed {
  readonly change: FileChange;
  readonly at: number;
}

interface Issued {
  readonly change: FileChange;
  readonly at: number;
  endedAt: number;
}

/** The file with all changes complete before a moment, for rising moments. */
class Prefix {
  readonly bytes: FileBytes;
  readonly #completed: readonly Completed[];
  #next = 0;

  constructor(initial: FileBytes, completed: readonly Completed[]) {
    this.bytes = initial.copy();
    this.#completed = completed;
  }

  advance(moment: number): void {
    for (let next = this.#completed[this.#next]; next !== undefined && next.at < moment; ) {
      this.bytes.apply(next.change);
      next = this.#completed[++this.#next];
    }
  }
}

export class CrashStates {
  readonly #events: readonly JournalEvent[];
  readonly #log: readonly MappingRecord[];
  readonly #completed: Completed[] = [];
  readonly #issued: Issued[] = [];
  readonly #flushes: { readonly begin: number; readonly end: number }[] = [];
  readonly #whole: Prefix;
  readonly #durable: Prefix;

  /**
   * @param initial what the file held, durably, before the first event
   * @param log what the log held then
   */
  constructor(initial: FileBytes, log: readonly MappingRecord[], events: readonly JournalEvent[]) {
    this.#events = events;
    this.#log = log;
    const issued = new Map<number, Issued>();
    const flushes = new Map<number, number>();
    for (const [at, event] of events.entries()) {
      if (event.type === "issue") {
        const entry = { change: event.change, at, endedAt: Number.POSITIVE_INFINITY };
        issued.set(event.id, entry);
        this.#issued.push(entry);
      } else if (event.type === "complete") {
        const entry = issued.get(event.id);
        if (entry === undefined) throw new Error("Complete before it was issued");
        entry.endedAt = at;
        this.#completed.push({ change: entry.change, at });
      } else if (event.type === "fail") {
        const entry = issued.get(event.id);
        if (entry !== undefined) entry.endedAt = at;
      } else if (event.type === "flush-begin") flushes.set(event.id, at);
      else if (event.type === "flush-end") this.#flushes.push({ begin: flushes.get(event.id) ?? 0, end: at });
    }
    this.#whole = new Prefix(initial, this.#completed);
    this.#durable = new Prefix(initial, this.#completed);
  }

  /** One of the states that a crash at a moment may leave. Moments must not fall from call to call. */
  at(moment: number, kind: CrashKind, random: Random): CrashState {
    return kind === "death" ? this.#death(moment, random) : this.#loss(moment, random);
  }

  #death(moment: number, random: Random): CrashState {
    this.#whole.advance(moment);
    const bytes = this.#whole.bytes.copy();
    for (const change of this.#underWay(moment, random)) bytes.apply(change);
    return { bytes, log: this.#logAt(moment) };
  }

  /** What may have happened of the changes that were issued and had not ended. */
  #underWay(moment: number, random: Random): FileChange[] {
    const found: FileChange[] = [];
    for (const { change, at, endedAt } of this.#issued) {
      if (at >= moment || endedAt < moment) continue;
      const lot = random();
      const part = lot < 0.3 ? undefined : lot < 0.6 ? change : cutChange(change, random());
      if (part !== undefined) found.push(part);
    }
    return shuffled(random, found);
  }

  #logAt(moment: number): readonly MappingRecord[] {
    const log = new LogRecords(this.#log);
    for (const event of this.#events.slice(0, moment)) if (event.type === "log") log.apply(event.change);
    return log.all;
  }

  #loss(moment: number, random: Random): CrashState {
    let covered = 0;
    for (const { begin, end } of this.#flushes) if (end < moment) covered = Math.max(covered, begin);
    this.#durable.advance(covered);
    const later = this.#completed.filter(({ at }) => at >= covered && at < moment).map(({ change }) => change);
    const changes = [...later, ...this.#underWay(moment, random)];
    return { bytes: mixed(this.#durable.bytes, changes, random), log: [] };
  }
}

/** Each sector in any one of the versions that it had. */
function mixed(durable: FileBytes, changes: readonly FileChange[], random: Random): FileBytes {
  const versions = new Map<number, Uint8Array[]>();
  const lengths = [durable.length];
  const running = durable.copy();
  for (const change of changes) {
    const before = running.length;
    running.apply(change);
    const { first, end } = touchedSectors(change, before);
    for (let sector = first; sector < end; sector++) {
      const list = versions.get(sector);
      if (list === undefined) versions.set(sector, [durable.sector(sector), running.sector(sector)]);
      else list.push(running.sector(sector));
    }
    lengths.push(running.length);
  }
  const draw = chooser(random);
  const result = durable.copy();
  for (const [sector, list] of versions) result.write(sector * SECTOR, draw(list));
  result.resize(draw(lengths));
  return result;
}

/** Old, new, or any: a mixture of one kind finds what another hides. */
function chooser(random: Random): <T>(versions: readonly T[]) => T {
  const bias = oneOf(random, [0, 0.5, 0.9]);
  const newest = chance(random, 0.5);
  return (versions) => {
    if (!chance(random, bias)) return oneOf(random, versions);
    return versions[newest ? versions.length - 1 : 0] ?? oneOf(random, versions);
  };
}

/** Moments to crash at: any, each once, in order. */
export function drawMoments(random: Random, count: number, events: number): number[] {
  const moments = new Set<number>();
  for (let drawn = 0; drawn < count; drawn++) moments.add(below(random, events + 1));
  return [...moments].sort((a, b) => a - b);
}
