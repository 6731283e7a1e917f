/**
 * Events as they happen, for whoever stays on the line (server-sent events: HTML Standard, "Server-sent events").
 *
 * The first thing that a follower gets is an id without an event, so that it knows where to resume from before anything has happened. Then
 * come the events, each with its id, and a comment now and then, by which it knows that the line lives. Nothing is buffered here beyond
 * 64 KiB: the next event is asked for when the last one has gone out. A follower that takes nothing for a minute while there is
 * something for it is cut off; it resumes with `Last-Event-ID` and has missed nothing that is still remembered.
 */
import type { Clock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { EventFeed, EventRecord } from "../jobs/index.ts";
import { HttpRefusal } from "./http-problem.ts";

export interface FollowOptions {
  /** @default from now */
  readonly after?: number;
  /** Only those of one disk. */
  readonly disk?: string;
  /** Ends the line from this side, whatever is still on it. */
  readonly cutOff: () => void;
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
  readonly #feed: EventFeed;
  readonly #clock: Clock;
  readonly #limits: EventStreamLimits;
  readonly #closing: AbortSignal | undefined;
  #followers = 0;

  /** @param closing ends all of them */
  constructor(feed: EventFeed, clock: Clock, limits: EventStreamLimits, closing?: AbortSignal) {
    this.#feed = feed;
    this.#clock = clock;
    this.#limits = limits;
    this.#closing = closing;
  }

  get followers(): number {
    return this.#followers;
  }

  /** @throws {StreamdiskError} `in-use` (503) when there are too many, `shutdown` */
  async open({ after, disk, cutOff }: FollowOptions): Promise<ReadableStream<Uint8Array>> {
    if (this.#closing?.aborted) throw new StreamdiskError("shutdown", "The daemon is stopping");
    if (this.#followers >= this.#limits.followers) {
      throw new HttpRefusal(503, "in-use", `${this.#followers} clients follow the events already, which is the limit`);
    }
    this.#followers += 1;
    try {
      const from = after ?? (await this.#feed.newest());
      return this.#streamFrom(from, disk, cutOff);
    } catch (error) {
      this.#followers -= 1;
      throw error;
    }
  }

  #streamFrom(from: number, disk: string | undefined, cutOff: () => void): ReadableStream<Uint8Array> {
    const over = new AbortController();
    const events = this.#feed.follow(from, over.signal)[Symbol.asyncIterator]();
    const end = (): void => {
      if (over.signal.aborted) return;
      over.abort();
      this.#closing?.removeEventListener("abort", end);
      this.#followers -= 1;
      events.return?.().catch(() => {});
    };
    this.#closing?.addEventListener("abort", end);
    let takes = 0;
    let cancelled = false;
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          controller.enqueue(encoder.encode(`retry: ${RETRY_MS}\nid: ${from}\n\n`));
          void this.#heartbeats(controller, over.signal, () => takes).then((stalled) => {
            if (!stalled) return;
            end();
            cutOff();
          });
        },
        pull: async (controller) => {
          takes += 1;
          try {
            const event = await nextOf(events, disk);
            if (event !== undefined && !over.signal.aborted) return controller.enqueue(encoder.encode(frame(event)));
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

async function nextOf(events: AsyncIterator<EventRecord>, disk: string | undefined): Promise<EventRecord | undefined> {
  for (;;) {
    const { done, value } = await events.next();
    if (done) return undefined;
    if (disk === undefined || value.disk === disk) return value;
  }
}

function frame(event: EventRecord): string {
  return `id: ${event.id}\ndata: ${JSON.stringify(event)}\n\n`;
}
