/**
 * Divides the bandwidth that the limits leave among the streams that run.
 *
 * A stream keeps to its speed by itself, in its thread; here it is said what that speed is. Every `ROUND_MS`, and at once when a
 * stream begins or a limit is changed, the limits are divided by what each stream can use (`jobs/fair-shares.ts`): one that its speed
 * holds back can use all it gets, of any other it is known how fast it is, and it is left a quarter more than that to grow into. Who has
 * just begun is taken for one that can use all.
 *
 * Shares are lowered before others are raised, and a stream begins only after the others have made room for it. So at every moment
 * the speeds under a limit add up to no more than it. What passes within t seconds is at most
 *
 *     limit * (t + 0.1) + one request (1 MiB) a stream
 *
 * since a stream may make up for a tenth of a second in which it had nothing to fetch, and begins a request as soon as it owes nothing.
 *
 * What guests read is fetched by other ways and not counted.
 */
import type { Clock } from "../block/index.ts";
import { fairShares, type Taker } from "../jobs/index.ts";
import type { StreamProgress } from "../stream/index.ts";
import type { SpeedLimits } from "./speed-limits.ts";
import { Turns } from "./turns.ts";

/** A stream that is about to run. */
export interface SharingStream {
  /** Its own limit in bytes a second; undefined for none. */
  readonly speed: number | undefined;
  /** What it fetches from, as messages show it. */
  readonly sources: readonly string[];
  /** Begins, if it is still to. @param speed bytes a second; undefined for no limit */
  begin(speed: number | undefined): Promise<void>;
  setSpeed(speed: number | undefined): Promise<void>;
}

interface Member {
  readonly stream: SharingStream;
  speed: number;
  /** What it was told last. */
  share: number;
  want: number;
  readonly since: number;
  /** Whether it has begun, and so has a share. */
  runs: boolean;
}

const ROUND_MS = 1_000;
/** Until then it is not known how fast a stream can be. */
const UNKNOWN_MS = 2_000;
/** How much more than it uses is left to a stream that nobody holds back. */
const HEADROOM = 1.25;
/** Left to a stream that does not move, in bytes a second: how it is seen to move again. */
const FOOT_IN_THE_DOOR = 64 * 1024;

export class StreamShares {
  readonly #limits: SpeedLimits;
  readonly #clock: Clock;
  readonly #members = new Map<string, Member>();
  readonly #turns = new Turns();
  #rounds = false;
  readonly #over = new AbortController();

  constructor(limits: SpeedLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
  }

  /**
   * Makes room for a stream and begins it.
   *
   * @param id of its disk
   * @throws what `begin` throws
   */
  async join(id: string, stream: SharingStream): Promise<void> {
    const { speed = Number.POSITIVE_INFINITY } = stream;
    const want = Number.POSITIVE_INFINITY;
    const member: Member = { stream, speed, share: 0, want, since: this.#clock.now(), runs: false };
    this.#members.set(id, member);
    await this.#turns.run(async () => {
      if (this.#members.get(id) !== member) return;
      member.runs = true;
      await this.#divide();
    });
    this.#keepDividing();
  }

  /** It runs no more. */
  leave(id: string): void {
    this.#members.delete(id);
  }

  /** A stream tells how fast it is. */
  hear(id: string, { rate, throttled }: Pick<StreamProgress, "rate" | "throttled">): void {
    const member = this.#members.get(id);
    if (member === undefined || this.#clock.now() - member.since < UNKNOWN_MS) return;
    member.want = throttled ? Number.POSITIVE_INFINITY : Math.max(FOOT_IN_THE_DOOR, rate * HEADROOM);
  }

  /** Changes a stream's own limit. */
  async setSpeed(id: string, speed: number | undefined): Promise<void> {
    const member = this.#members.get(id);
    if (member === undefined) return;
    member.speed = speed ?? Number.POSITIVE_INFINITY;
    await this.divide();
  }

  /** Bytes a second that a stream may take now; undefined when nothing limits it, or it does not run. */
  shareOf(id: string): number | undefined {
    const share = this.#members.get(id)?.share;
    return share === undefined || share === 0 ? undefined : finite(share);
  }

  /** Divides anew, as is needed when a limit was changed; resolves when all keep to it. */
  async divide(): Promise<void> {
    await this.#turns.run(() => this.#divide());
    this.#keepDividing();
  }

  /** Divides no more. */
  close(): void {
    this.#over.abort();
  }

  async #divide(): Promise<void> {
    const members = [...this.#members.values()].filter(({ runs }) => runs);
    const limits = new Map<string, number>();
    const takers = members.map((member) => this.#takerOf(member, limits));
    const shares = fairShares(takers, limits);
    const changes = members.map((member, at) => ({ member, share: shares[at] ?? member.share }));
    await Promise.all(changes.filter(({ member, share }) => share < member.share).map(told));
    await Promise.all(changes.filter(({ member, share }) => share > member.share).map(told));
  }

  /** @param limits gets those that it is under */
  #takerOf({ want, speed, stream: { sources } }: Member, limits: Map<string, number>): Taker {
    const under = [this.#limits.all, ...sources.map((uri) => this.#limits.over(uri))].filter(
      (limit) => limit !== undefined,
    );
    for (const limit of under) limits.set(limit.name, limit.speed);
    return { want, speed, limits: [...new Set(under.map(({ name }) => name))] };
  }

  /** Goes round as long as there is anything to divide. */
  #keepDividing(): void {
    if (this.#rounds || this.#over.signal.aborted || !this.#isLimited()) return;
    this.#rounds = true;
    void this.#clock.sleep(ROUND_MS, this.#over.signal).then(() => {
      this.#rounds = false;
      if (!this.#over.signal.aborted) void this.divide();
    });
  }

  #isLimited(): boolean {
    return [...this.#members.values()].some(({ share, speed }) => share < speed);
  }
}

async function told({ member, share }: { readonly member: Member; readonly share: number }): Promise<void> {
  const begins = member.share === 0;
  member.share = share;
  if (begins) return member.stream.begin(finite(share));
  // One that has just come to its end has no speed any more.
  await member.stream.setSpeed(finite(share)).catch(() => {});
}

function finite(speed: number): number | undefined {
  return Number.isFinite(speed) ? speed : undefined;
}
