/**
 * What happens, as it happens, for whoever stays on the line (server-sent events: HTML Standard, "Server-sent events").
 *
 * The first thing that a follower of the events gets is an id without an event, so that it knows where to resume from before anything has
 * happened. Then come the messages, events each with its id, and a comment now and then, by which it knows that the line lives. Nothing is
 * buffered here beyond 64 KiB: the next message is asked for when the last one has gone out. A follower that takes nothing for a minute
 * while there is something for it is cut off; one of the events resumes with `Last-Event-ID` and has missed nothing that is still remembered.
 */
import type { Clock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { EventFeed, EventRecord } from "../jobs/index.ts";
import { HttpRefusal } from "./http-problem.ts";

/** What a follower is to get. */
export interface Line {
  /** The first of it. */
  readonly head: string;
  /** Message by message, until the signal aborts. */
  readonly messages: (signal: AbortSignal) => AsyncIterable<string>;
}

export interface FollowOptions {
  /** @default from now */
  readonly after?: number;
  /** Only those of one disk. */
  readonly disk?: string;
}

export interface EventStreamLimits {
  readonly followers: number;
  readonly heartbeatMs: number;
}

const MOST_BUFFERED = 64 * 1024;
/** Heartbeats in a row at which nothing had been taken. */
const PATIENCE = 4;
/** How long a follower is to wait before it comes back. */
const RETRY_MS = 1000;

export class EventStreams {
  readonly #clock: Clock;
  readonly #limits: EventStreamLimits;
  readonly #closing: AbortSignal | undefined;
  #followers = 0;

  /** @param closing ends all of them */
  constructor(clock: Clock, limits: EventStreamLimits, closing?: AbortSignal) {
    this.#clock = clock;
    this.#limits = limits;
    this.#closing = closing;
  }

  get followers(): number {
    return this.#followers;
  }

  /**
   * @param cutOff ends the line from this side, whatever is still on it
   * @throws {StreamdiskError} `in-use` (503) when there are too many, `shutdown`
   */
  async open(begin: () => Promise<Line>, cutOff: () => void): Promise<ReadableStream<Uint8Array>> {
    if (this.#closing?.aborted) throw new StreamdiskError("shutdown", "The daemon is stopping");
    if (this.#followers >= this.#limits.followers) {
      throw new HttpRefusal(503, "in-use", `${this.#followers} clients follow the events already, which is the limit`);
    }
    this.#followers += 1;
    try {
      return this.#streamOf(await begin(), cutOff);
    } catch (error) {
      this.#followers -= 1;
      throw error;
    }
  }

  #streamOf({ head, messages: from }: Line, cutOff: () => void): ReadableStream<Uint8Array> {
    const over = new AbortController();
    const messages = from(over.signal)[Symbol.asyncIterator]();
    const end = (): void => {
      if (over.signal.aborted) return;
      over.abort();
      this.#closing?.removeEventListener("abort", end);
      this.#followers -= 1;
      messages.return?.().catch(() => {});
    };
    this.#closing?.addEventListener("abort", end);
    let takes = 0;
    let cancelled = false;
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          controller.enqueue(encoder.encode(`retry: ${RETRY_MS}\n${head}\n`));
          void this.#heartbeats(controller, over.signal, () => takes).then((stalled) => {
            if (!stalled) return;
            end();
            cutOff();
          });
        },
        pull: async (controller) => {
          takes += 1;
          try {
            const { done, value } = await messages.next();
            if (!done && !over.signal.aborted) return controller.enqueue(encoder.encode(value));
          } catch {
            // The feed failed, which its owner logs; the follower comes back and resumes.
          }
          end();
          if (!cancelled) controller.close();
        },
        cancel: () => {
          cancelled = true;
          end();
        },
      },
      new ByteLengthQueuingStrategy({ highWaterMark: MOST_BUFFERED }),
    );
  }

  /** @returns true when the follower takes nothing, false when it is over */
  async #heartbeats(
    controller: ReadableStreamDefaultController<Uint8Array>,
    over: AbortSignal,
    takes: () => number,
  ): Promise<boolean> {
    let stalled = 0;
    let before = 0;
    for (;;) {
      await this.#clock.sleep(this.#limits.heartbeatMs, over);
      if (over.aborted) return false;
      const full = (controller.desiredSize ?? 0) <= 0;
      if (!full) controller.enqueue(encoder.encode(":\n\n"));
      stalled = full && takes() === before ? stalled + 1 : 0;
      before = takes();
      if (stalled >= PATIENCE) return true;
    }
  }
}

const encoder = new TextEncoder();

/** The events of a feed. */
export async function eventLine(feed: EventFeed, { after, disk }: FollowOptions): Promise<Line> {
  const from = after ?? (await feed.newest());
  return { head: `id: ${from}\n`, messages: (signal) => eventFrames(feed.follow(from, signal), disk) };
}

async function* eventFrames(events: AsyncIterable<EventRecord>, disk: string | undefined) {
  for await (const event of events) {
    if (disk === undefined || event.disk === disk) yield `id: ${event.id}\ndata: ${JSON.stringify(event)}\n\n`;
  }
}

/** Messages that nobody resumes from. */
export function plainLine(messages: (signal: AbortSignal) => AsyncIterable<object>): Line {
  return {
    head: "",
    async *messages(signal) {
      for await (const message of messages(signal)) yield `data: ${JSON.stringify(message)}\n\n`;
    },
  };
}
