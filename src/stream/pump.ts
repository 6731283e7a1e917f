/**
 * One pass of the stream job over a disk: walks its extents once, in ascending order, and launches a request for each piece
 * that is missing, as long as the window, the rate limit and the unsafe bytes (`durability.ts`) allow.
 *
 * However a pass ends (at the end of the disk, halted from outside, by a failure of its own), no request is
 * under way when it has ended. A failure does not break off what else is under way; only the signal does.
 */
import type { Clock } from "../block/index.ts";
import { Durability } from "./durability.ts";
import { RateLimit } from "./rate-limit.ts";
import type { Failure } from "./stopped.ts";
import { type Tally, takeTally, walk } from "./tally.ts";
import type { Populated, StreamTarget } from "./target.ts";
import { AdaptiveWindow } from "./window.ts";

export interface PumpOptions {
  /** Bytes of one request: a multiple of the grain. */
  readonly chunk: number;
  readonly window: number | undefined;
  readonly speed: number | undefined;
  readonly clock: Clock;
  /** Breaks off requests that are under way. */
  readonly signal: AbortSignal;
}

/** Clearing takes no data, only metadata: a piece of this size keeps it interruptible. */
const CLEAR_PIECE = 256 * 2 ** 20;
/** More small requests than this at a time gain nothing and cost memory. */
const MOST_REQUESTS = 64;

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly kind: "fetch" | "clear";
}

export class Pump {
  readonly durability: Durability;
  readonly window: AdaptiveWindow;
  readonly #target: StreamTarget;
  readonly #chunk: number;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #limit: RateLimit;
  readonly #underway = new Set<Piece>();
  #underwayBytes = 0;
  /** Everything below it is done or under way. */
  #position = 0;
  /** The first byte of what was under way and came to nothing. */
  #undone = Number.POSITIVE_INFINITY;
  #tally: Tally = { local: 0, zero: 0, missing: 0, fetch: 0, first: 0 };
  #copied = 0;
  #populated = 0;
  #halted: boolean;
  #failure: Failure | undefined;
  #wake: (() => void) | undefined;
  #ceiling = Number.POSITIVE_INFINITY;

  constructor(target: StreamTarget, options: PumpOptions) {
    const { clock, speed } = options;
    this.#target = target;
    this.#chunk = options.chunk;
    this.#clock = clock;
    this.#signal = options.signal;
    this.#halted = options.signal.aborted;
    this.#limit = new RateLimit(speed ?? Number.POSITIVE_INFINITY, clock);
    this.window = new AdaptiveWindow(clock.now(), options.window);
    this.durability = new Durability(target, clock, (error) => {
      if (error !== undefined) this.#failure ??= { error };
      this.#changed();
    });
    options.signal.addEventListener("abort", () => this.halt(), { once: true });
  }

  /** @param speed bytes a second; undefined for no limit */
  setSpeed(speed: number | undefined): void {
    this.#limit.speed = speed ?? Number.POSITIVE_INFINITY;
  }

  /** @param bytes that may be under way at once, whatever the window is; undefined for no bound */
  setCeiling(bytes: number | undefined): void {
    this.#ceiling = bytes ?? Number.POSITIVE_INFINITY;
    this.#changed();
  }

  /** Bytes that may be under way at once. */
  get room(): number {
    return Math.min(this.window.size, this.#ceiling);
  }

  /** Milliseconds that the speed has held it back since the start. */
  get waitedMs(): number {
    return this.#limit.waitedMs;
  }

  /** As of the last survey, kept up to date since. */
  get tally(): Readonly<Tally> {
    return this.#tally;
  }

  /** Bytes fetched since the start. */
  get copied(): number {
    return this.#copied;
  }

  /** Bytes that were missing and are local through this, since the start. */
  get populated(): number {
    return this.#populated;
  }

  /** Everything below it is done. */
  get offset(): number {
    let offset = Math.min(this.#position, this.#undone);
    for (const piece of this.#underway) offset = Math.min(offset, piece.offset);
    return offset;
  }

  /** Counts what is missing. */
  async survey(): Promise<void> {
    const tally = await takeTally(this.#target, this.#signal);
    if (this.#signal.aborted) return;
    this.#tally = tally;
    this.#position = tally.first;
    this.#undone = Number.POSITIVE_INFINITY;
  }

  /** Launches nothing more until `resume`. */
  halt(): void {
    this.#halted = true;
    this.#changed();
  }

  resume(): void {
    this.#halted = this.#signal.aborted;
  }

  /** Does what is missing from the first missing byte to the end, unless it is halted or fails on the way. */
  async pass(): Promise<Failure | undefined> {
    this.#failure = undefined;
    this.window.restart(this.#clock.now());
    const { grain, length } = this.#target;
    try {
      for await (const extent of walk(this.#target, this.#position - (this.#position % grain))) {
        if (extent.kind === "fetch" || extent.kind === "clear") await this.#launchAll({ ...extent, kind: extent.kind });
        if (this.#stopped) break;
        this.#position = extent.offset + extent.length;
      }
      if (!this.#stopped) this.#position = length;
    } catch (error) {
      if (!this.#signal.aborted) this.#failure ??= { error, offset: this.#position };
    }
    while (this.#underway.size > 0) await this.#change();
    return this.#failure;
  }

  get #stopped(): boolean {
    return this.#halted || this.#failure !== undefined;
  }

  /** Cuts a range at multiples of the chunk and launches the pieces one after the other. */
  async #launchAll({ offset, length, kind }: Piece): Promise<void> {
    const most = kind === "fetch" ? this.#chunk : Math.max(CLEAR_PIECE, this.#chunk);
    const end = offset + length;
    let position = offset;
    while (position < end) {
      const cut = Math.min(end, position - (position % most) + most);
      const piece: Piece = { offset: position, length: cut - position, kind };
      if (!(await this.#admit(piece))) return;
      void this.#launch(piece);
      position = this.#position = cut;
    }
  }

  /** Waits until a piece may be launched; false when the pass has stopped. */
  async #admit(piece: Piece): Promise<boolean> {
    const cost = this.#costOf(piece);
    if (!this.#limit.unlimited && piece.kind === "fetch") {
      await this.#limit.take(piece.length, this.#signal);
      this.window.restart(this.#clock.now());
    }
    while (!this.#stopped && !this.#hasRoom(cost)) await this.#change();
    return !this.#stopped;
  }

  #hasRoom(cost: number): boolean {
    if (this.durability.full) return false;
    if (this.#underway.size === 0) return true;
    return this.#underway.size < MOST_REQUESTS && this.#underwayBytes + cost <= this.room;
  }

  #costOf({ length }: Piece): number {
    return Math.min(length, this.#chunk);
  }

  async #launch(piece: Piece): Promise<void> {
    const { offset, length, kind } = piece;
    const began = this.#clock.now();
    this.#underway.add(piece);
    this.#underwayBytes += this.#costOf(piece);
    try {
      if (kind === "fetch") {
        const populated = await this.#target.populate(offset, length, this.#signal);
        this.#copied += length;
        this.#tally.fetch -= length;
        this.#done(length, populated);
        this.durability.populated(populated.data + populated.zero);
        const now = this.#clock.now();
        // A window that is not what holds the stream back learns nothing from it.
        if (this.room < this.window.size) this.window.restart(now);
        else this.window.arrived(length, now, now - began);
      } else {
        this.#done(length, await this.#target.clear(offset, length));
        // Nothing that would be dear to do again.
        this.durability.populated(0);
      }
    } catch (error) {
      this.#undone = Math.min(this.#undone, offset);
      if (!this.#signal.aborted) this.#failure ??= { error, offset, length };
    } finally {
      this.#underway.delete(piece);
      this.#underwayBytes -= this.#costOf(piece);
      this.#changed();
    }
  }

  /** A range is missing no more; what of it is not zero is data, the guest's or ours. */
  #done(length: number, { data, zero }: Populated): void {
    this.#populated += data + zero;
    this.#tally.missing -= length;
    this.#tally.zero += zero;
    this.#tally.local += length - zero;
  }

  /** Resolves when something has changed that a waiting pass may look at. */
  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #changed(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
