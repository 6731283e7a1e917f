/**
 * Follows what a daemon tells, over losses of the line. The id of the last message is kept, and the next line begins after it: a daemon
 * that is restarted, or a follower that was cut off for being slow, costs time and no event. What goes on in a disk has no ids: its next
 * line begins with how it is then.
 */
import type { Event, Live } from "../api/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { problemError } from "./problem-error.ts";
import { MessageParser } from "./server-sent-events.ts";
import type { Transport, TransportResponse } from "./transport.ts";

export interface LineOptions {
  readonly signal?: AbortSignal;
  /** Told whenever the daemon answers, at first and when the line is back; of events, with the id of the newest that one has or had. */
  readonly onOpen?: (newest?: number) => void;
  /** Told when the line is lost, and why; it is tried again by itself. */
  readonly onLost?: (why: unknown) => void;
  /** Milliseconds before the first new try; each next one waits twice as long, up to ten seconds. @default 500 */
  readonly retryMs?: number;
}

export interface FollowOptions extends LineOptions {
  /** Only events with a greater id. @default what happens from now */
  readonly after?: number;
}

/** A daemon says something every 15 seconds. */
const SILENCE_MS = 45_000;
const RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;

/**
 * Every event, in order and once. Ends when the signal aborts, without an error.
 *
 * @param disk only those of one disk
 * @throws {StreamdiskError} when the daemon refuses; one that is not there is waited for
 */
export function followEvents(
  transport: Transport,
  disk: string | undefined,
  { after, ...options }: FollowOptions,
): AsyncGenerator<Event, void, undefined> {
  const path = disk === undefined ? "/v1/events" : `/v1/events?disk=${encodeURIComponent(disk)}`;
  return follow<Event>(transport, path, after === undefined ? undefined : String(after), options);
}

/** What goes on in a disk; each line begins with how it is. Ends and throws as `followEvents`. */
export function followLive(
  transport: Transport,
  disk: string,
  options: LineOptions,
): AsyncGenerator<Live, void, undefined> {
  return follow<Live>(transport, `/v1/disks/${encodeURIComponent(disk)}/live`, undefined, options);
}

async function* follow<T>(
  transport: Transport,
  path: string,
  after: string | undefined,
  options: LineOptions,
): AsyncGenerator<T, void, undefined> {
  const { signal, onOpen, onLost, retryMs = RETRY_MS } = options;
  let last = after;
  for (let wait = retryMs; !signal?.aborted; wait = Math.min(wait * 2, LONGEST_RETRY_MS)) {
    const line = new AbortController();
    const hangUp = (): void => line.abort();
    signal?.addEventListener("abort", hangUp);
    try {
      const response = await opened(transport, path, last, line.signal);
      let isOpen = false;
      for await (const { id, data } of messagesOf(response, hangUp)) {
        wait = retryMs;
        last = id ?? last;
        if (!isOpen) onOpen?.(last === undefined ? undefined : Number(last));
        isOpen = true;
        if (data !== undefined) yield JSON.parse(data) as T;
      }
      onLost?.(new StreamdiskError("source-lost", "The daemon ended the line"));
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof StreamdiskError && !error.row.retryable) throw error;
      onLost?.(error);
    } finally {
      line.abort();
      signal?.removeEventListener("abort", hangUp);
    }
    await pause(wait, signal);
  }
}

async function opened(
  transport: Transport,
  path: string,
  last: string | undefined,
  signal: AbortSignal,
): Promise<TransportResponse> {
  const headers = { Accept: "text/event-stream", ...(last !== undefined && { "Last-Event-ID": last }) };
  const response = await transport({ method: "GET", path, headers, signal });
  if (response.status === 200) return response;
  throw problemError(response.status, await new Response(response.body).text());
}

async function* messagesOf({ body }: TransportResponse, hangUp: () => void) {
  if (body === null) return;
  const parser = new MessageParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let silence = setTimeout(hangUp, SILENCE_MS);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(hangUp, SILENCE_MS);
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    clearTimeout(silence);
    reader.cancel().catch(() => {});
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}
