/**
 * What happens, told to all who look on, and remembered. The store is the only buffer: a follower reads on from the last id that it
 * has seen, and is woken when there is more. So it misses nothing, however slow it is, and costs no memory.
 *
 * Events are written one after another, in the order in which they were told. One that cannot be written is logged and lost, since
 * what it tells of has happened all the same.
 */
import type { ErrorCode } from "../errors/index.ts";
import type { EventFeed, EventQuery, EventRecord, EventType, Store } from "../jobs/index.ts";
import type { Log } from "./log.ts";
import type { DaemonSettings } from "./settings.ts";

/** What there is to tell, beside what and the sentence. */
export interface EventFacts {
  /** Name of the disk. */
  readonly disk?: string;
  readonly job?: string;
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
    const time = Date.now();
    this.#log.info({ event: type, ...facts }, message);
    this.#last = this.#last.then(() => this.#add({ type, message, time, ...facts }));
    return this.#last;
  }

  async #add(event: Omit<EventRecord, "id">): Promise<void> {
    try {
      await this.#store.addEvent(event);
      if (++this.#added % PRUNE_EVERY === 0) await this.#store.prune(this.#keep);
    } catch (error) {
      this.#log.error({ err: error, event: event.type }, "An event could not be remembered");
    }
    const { resolve } = this.#wake;
    this.#wake = Promise.withResolvers<void>();
    resolve();
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
