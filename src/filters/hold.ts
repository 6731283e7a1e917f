/**
 * What a guest gets while a source is dead: the policy of its disk (design, "Source death").
 *
 * It stands on the guest's side, around copy-on-read: so it sees the guest's own requests, whatever a request needs from below
 * and with whom it shares that. A call that fails for want of a source is *held*: it waits until the source is back, and is
 * done again. A large request comes in several calls, which count as one (`connect`). Nothing waits further down, neither a lock nor a buffer nor the stream job, which has a
 * patience of its own.
 *
 * `holdMs` counts from the moment that the source was lost (`SourceWatch`), for all requests together; after that, and whenever
 * `mostHeld` of one client wait already, requests fail at once. So a dead source costs its time once, not once a request. A range that an otherwise
 * healthy source cannot give is asked for again and again for as long, counted from its request's own first failure.
 *
 * A source that has changed is nobody's to wait for.
 *
 * A machine that is stopped waits for its requests, and its monitor with it: so nothing of it may be held then. When one request meets
 * the policy "pause" all that wait do. Whoever is about to stop or reset a machine calls `failHeld` first: what waits gets the second
 * policy at once, and so does what comes until `release`. A source that owes an answer, and may do so for long, is taken for lost then.
 */
import { type BlockNode, type Clock, type Extent, type GuestNode, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SourceLoss, SourceWatch } from "./source-watch.ts";

/** What to do with requests that a lost source cannot answer. */
export interface SourcePolicy {
  /** How long they are held, in milliseconds from the loss: 0 fails them at once, Infinity never. */
  readonly holdMs: number;
  /** What comes after: an error alone, or an error and the machine's pause (`onPause`). */
  readonly afterwards: "error" | "pause";
}

export interface HoldOptions {
  readonly policy: SourcePolicy;
  /** The sources below. */
  readonly watches: readonly Pick<SourceWatch, "loss" | "giveUp">[];
  /** Requests of one client that may wait at a time; more get the second policy. @default 8 */
  readonly mostHeld?: number;
  readonly clock?: Clock;
  /**
   * Those who ask are disks with policies of their own: that a source is lost is told as such (`shutdown`, which NBD has a word for), and
   * not as an error of what they asked for. @default false
   */
  readonly relay?: boolean;
  /** The second policy is "pause", and a request is about to meet it. */
  readonly onPause?: () => void;
  /** Called when a call begins to wait. What it returns is called when it waits no more. */
  readonly onHeld?: (range: { readonly offset: number; readonly length: number }) => () => void;
}

const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;
/** How long sources may owe answers to a guest that is to be stopped. */
const GRACE_MS = 500;
/** How often that is looked at. */
const LOOK_MS = 20;

type News = "give up" | "look again";

/** What one client has waiting. */
interface Places {
  taken: number;
}

export class Hold implements GuestNode {
  readonly grows = false;
  readonly #disk: GuestNode;
  readonly #options: HoldOptions;
  readonly #clock: Clock;
  readonly #closing = new AbortController();
  /** For whoever asks without a connection. */
  readonly #alone = this.connect();
  #held = 0;
  /** Calls that have begun so far, and which of them are not done. */
  #begun = 0;
  readonly #underWay = new Set<number>();
  #policy: SourcePolicy;
  /** Aborted, with what they are to do, when there is news for those that wait now. */
  #news = new AbortController();
  /** How many have called `failHeld` and not yet `release`. */
  #failing = 0;

  /** @param disk closed with this */
  constructor(disk: GuestNode, options: HoldOptions) {
    this.#disk = disk;
    this.#options = options;
    this.#policy = options.policy;
    this.#clock = options.clock ?? systemClock;
  }

  /** Another policy: also for those that wait already. */
  setPolicy(policy: SourcePolicy): void {
    this.#policy = policy;
    this.#tell("look again");
  }

  /** Requests that wait. */
  get held(): number {
    return this.#held;
  }

  get name(): string {
    return this.#disk.name;
  }

  get length(): number {
    return this.#disk.length;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  get backing(): BlockNode | undefined {
    return this.#disk.backing;
  }

  /** @returns a maker of what one request of a client is done on, in any number of calls */
  connect(): () => HeldRequest {
    const places: Places = { taken: 0 };
    return () =>
      new HeldRequest(this.#disk, (request, offset, length, act, signal) =>
        this.#patiently(places, request, offset, length, act, signal),
      );
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#alone().read(offset, target, signal);
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#alone().write(offset, data);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#alone().writeZeroes(offset, length);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#alone().discard(offset, length);
  }

  flush(): Promise<void> {
    return this.#alone().flush();
  }

  cache(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    return this.#alone().cache(offset, length, signal);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#alone().extents(offset, length);
  }

  readNow(offset: number, target: Uint8Array): boolean {
    return this.#disk.readNow?.(offset, target) ?? false;
  }

  canZeroFast(offset: number, length: number): boolean {
    return this.#disk.canZeroFast?.(offset, length) ?? false;
  }

  resize(length: number): Promise<void> {
    return this.#disk.resize(length);
  }

  /**
   * Has all that waits fail, and what comes until `release`: by the second policy. Resolves when every call that was under way is
   * done; the sources have half a second for it, and what they owe after that they are taken for lost.
   */
  async failHeld(): Promise<void> {
    this.#failing++;
    this.#tell("give up");
    const last = this.#begun;
    const isOver = (): boolean => ![...this.#underWay].some((call) => call <= last);
    const end = this.#clock.now() + GRACE_MS;
    while (!isOver() && this.#clock.now() < end) await this.#clock.sleep(LOOK_MS);
    if (!isOver()) for (const watch of this.#options.watches) watch.giveUp();
    while (!isOver() && this.#clock.now() < end + GRACE_MS) await this.#clock.sleep(LOOK_MS);
  }

  /** The end of `failHeld`: requests may wait again. */
  release(): void {
    this.#failing--;
  }

  /** Wakes all that wait. */
  #tell(news: News): void {
    const told = this.#news;
    this.#news = new AbortController();
    told.abort(news);
  }

  /** Does a call of a request, again and again where the policy says so. */
  async #patiently<T>(
    places: Places,
    request: HeldRequest,
    offset: number,
    length: number,
    act: () => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    let holding: Holding | undefined;
    const call = ++this.#begun;
    this.#underWay.add(call);
    try {
      for (;;) {
        try {
          return await act();
        } catch (error) {
          if (!(error instanceof StreamdiskError)) throw error;
          if (error.code === "changed") throw this.#giveUp(error);
          if (error.code !== "source-lost") throw error;
          holding ??= this.#hold(places, request, offset, length, error);
          await this.#wait(holding, error, signal);
        }
      }
    } finally {
      this.#underWay.delete(call);
      holding?.ended?.();
      if (holding !== undefined && --request.waiting === 0) {
        places.taken--;
        this.#held--;
      }
    }
  }

  #hold(places: Places, request: HeldRequest, offset: number, length: number, error: StreamdiskError): Holding {
    const { mostHeld = 8 } = this.#options;
    if (request.waiting === 0) {
      if (places.taken >= mostHeld) throw this.#giveUp(error);
      places.taken++;
      this.#held++;
    }
    request.waiting++;
    const ended = this.#options.onHeld?.({ offset, length });
    return { since: this.#clock.now(), retryIn: FIRST_RETRY_MS, ended };
  }

  /** Waits until it is worth asking again; throws when there is no more patience. */
  async #wait(holding: Holding, error: StreamdiskError, signal: AbortSignal | undefined): Promise<void> {
    const loss = this.#lossBehind(error);
    const since = Math.min(holding.since, loss?.since ?? holding.since);
    const left = since + this.#policy.holdMs - this.#clock.now();
    if (left <= 0 || this.#failing > 0) throw this.#giveUp(error);
    const news = this.#news.signal;
    const woken = new AbortController();
    const wake = (): void => woken.abort();
    const wakers = [this.#closing.signal, news, ...(signal === undefined ? [] : [signal])];
    for (const waker of wakers) {
      if (waker.aborted) wake();
      waker.addEventListener("abort", wake, { once: true });
    }
    void loss?.over.then(wake);
    await this.#clock.sleep(loss === undefined ? Math.min(holding.retryIn, left) : left, woken.signal);
    for (const waker of wakers) waker.removeEventListener("abort", wake);
    holding.retryIn = Math.min(holding.retryIn * 2, LONGEST_RETRY_MS);
    signal?.throwIfAborted();
    if (news.aborted && news.reason === ("give up" satisfies News)) throw this.#giveUp(error);
    if (this.#closing.signal.aborted) {
      throw new StreamdiskError(
        "shutdown",
        `'${this.name}' was closed before its source was back`,
        error.context,
        error,
      );
    }
  }

  /** The loss that an error tells of, if it is not over. */
  #lossBehind(error: StreamdiskError): SourceLoss | undefined {
    return this.#options.watches.find(({ loss }) => loss?.error === error)?.loss;
  }

  #giveUp(error: StreamdiskError): StreamdiskError {
    if (this.#policy.afterwards === "pause") {
      this.#options.onPause?.();
      this.#tell("give up");
    }
    if (this.#options.relay) return new StreamdiskError("shutdown", error.message, error.context, error);
    return error;
  }

  /** Whoever waits gets an error. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#disk.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

type Patience = <T>(
  request: HeldRequest,
  offset: number,
  length: number,
  act: () => Promise<T>,
  signal?: AbortSignal,
) => Promise<T>;

/** A client's request: its calls take one place together, however many of them wait. */
export class HeldRequest {
  /** Calls that wait. */
  waiting = 0;
  readonly #disk: GuestNode;
  readonly #patiently: Patience;

  constructor(disk: GuestNode, patiently: Patience) {
    this.#disk = disk;
    this.#patiently = patiently;
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#patiently(this, offset, target.length, () => this.#disk.read(offset, target, signal), signal);
  }

  /** A write of part of what is missing needs the rest from below. */
  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#patiently(this, offset, data.length, () => this.#disk.write(offset, data));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#patiently(this, offset, length, () => this.#disk.writeZeroes(offset, length));
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#patiently(this, offset, length, () => this.#disk.discard(offset, length));
  }

  /** An overlay needs nothing from below for this; an image that is itself on a server needs that. */
  flush(): Promise<void> {
    return this.#patiently(this, 0, 0, () => this.#disk.flush());
  }

  cache(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    return this.#patiently(this, offset, length, async () => this.#disk.cache?.(offset, length, signal), signal);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#patiently(this, offset, length, () => this.#disk.extents(offset, length));
  }
}

/** A call that is held. */
interface Holding {
  /** Its own first failure. */
  readonly since: number;
  /** Where no loss is known whose end could be waited for. */
  retryIn: number;
  readonly ended: (() => void) | undefined;
}
