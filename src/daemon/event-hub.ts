/**
 * What happens, told to all who look on, and remembered. The store is the only buffer: a follower reads on from the last id that it
 * has seen, and is woken when there is more. So it misses nothing, however slow it is, and costs no memory.
 *
 * Events are written one after another, in the order in which they were told. One that cannot be written is logged and lost, since
 * what it tells of has happened all the same. What becomes of a job is one transaction with the event that tells of it: whatever dies
 * when, there is not one without the other. So records of jobs are written here too, in one row with the events.
 */
import type { ErrorCode } from "../errors/index.ts";
import type { EventFeed, EventQuery, EventRecord, EventType, JobRecord, Store } from "../jobs/index.ts";
import type { Log } from "./log.ts";
import type { DaemonSettings } from "./settings.ts";

/** What there is to tell, beside what and the sentence. */
export interface EventFacts {
  /** Name of the disk. */
  readonly disk?: string;
  readonly job?: string;
  /** Path or URI, without what gives access to it. */
  readonly source?: string;
  readonly code?: ErrorCode;
  readonly offset?: number;
  readonly length?: number;
}

const PRUNE_EVERY = 500;
const PAGE = 500;

export class EventHub implements EventFeed {
  readonly #store: Store;
  readonly #log: Log;
  readonly #keep: DaemonSettings["keep"];
  #wake = Promise.withResolvers<void>();
  #last: Promise<void> = Promise.resolve();
  #added = 0;

  /** @param keep how much is remembered */
  constructor(store: Store, log: Log, keep: DaemonSettings["keep"]) {
    this.#store = store;
    this.#log = log;
    this.#keep = keep;
  }

  /** Remembers an event; resolves when that is durable, or has failed. */
  tell(type: EventType, message: string, facts: EventFacts = {}): Promise<void> {
    return this.#tell(undefined, type, message, facts).catch((error: unknown) => {
      this.#log.error({ err: error, event: type }, "An event could not be remembered");
    });
  }

  /**
   * Remembers an event and what has become of its job.
   *
   * @throws {StreamdiskError} as the store says; then neither is remembered
   */
  tellWith(job: JobRecord, type: EventType, message: string, facts: EventFacts): Promise<void> {
    return this.#tell(job, type, message, facts);
  }

  /** Remembers how far a job is. @throws {StreamdiskError} as the store says */
  save(job: JobRecord): Promise<void> {
    return this.#inTurn(() => this.#store.putJob(job));
  }

  #tell(job: JobRecord | undefined, type: EventType, message: string, facts: EventFacts): Promise<void> {
    const time = Date.now();
    this.#log.info({ event: type, ...facts }, message);
    return this.#inTurn(() => this.#add({ type, message, time, ...facts }, job));
  }

  #inTurn(write: () => Promise<void>): Promise<void> {
    const written = this.#last.then(write);
    this.#last = written.catch(() => {});
    return written;
  }

  async #add(event: Omit<EventRecord, "id">, job: JobRecord | undefined): Promise<void> {
    await this.#store.addEvent(event, job);
    if (++this.#added % PRUNE_EVERY === 0) await this.#prune();
    const { resolve } = this.#wake;
    this.#wake = Promise.withResolvers<void>();
    resolve();
  }

  async #prune(): Promise<void> {
    try {
      await this.#store.prune(this.#keep);
    } catch (error) {
      this.#log.error({ err: error }, "Old events could not be forgotten");
    }
  }

  /** Resolves when all that was told so far is durable. */
  settled(): Promise<void> {
    return this.#last;
  }

  events(query: EventQuery): Promise<EventRecord[]> {
    return this.#store.events(query);
  }

  async newest(): Promise<number> {
    await this.#last;
    return await this.#store.lastEvent();
  }

  async *follow(after: number, signal: AbortSignal): AsyncGenerator<EventRecord, void, undefined> {
    const aborted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    let last = after;
    while (!signal.aborted) {
      // Before the look: what comes after it wakes us.
      const woken = this.#wake.promise;
      const page = await this.#store.events({ after: last, limit: PAGE });
      for (const event of page) {
        if (signal.aborted) return;
        yield event;
        last = event.id;
      }
      if (page.length === 0) await Promise.race([woken, aborted]);
    }
  }
}
