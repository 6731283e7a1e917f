/**
 * All that the daemon has, and whether it answers. Kept up to date by its events: each one makes the page look again, and while a stream runs
 * it looks every second. When the line is lost it is tried again by the client, and the page says so meanwhile.
 */
import { signal } from "@preact/signals";
import type { DaemonInfo, Disk, Event, RouteResult } from "../../src/client/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { daemonClient } from "../session.ts";
import { hasEnded } from "../words.ts";

export type Source = RouteResult<"listSources">["sources"][number];

export type Line =
  | { readonly state: "connecting" }
  | { readonly state: "open" }
  /** `since` is when it was last heard of. */
  | { readonly state: "lost"; readonly since: number; readonly why: string }
  /** The token is wrong, or there is none. */
  | { readonly state: "refused"; readonly why: string };

export const line = signal<Line>({ state: "connecting" });
export const daemon = signal<DaemonInfo | undefined>(undefined);
/** Undefined until they are known. */
export const disks = signal<readonly Disk[] | undefined>(undefined);
export const sources = signal<readonly Source[]>([]);
/** The newest first. */
export const events = signal<readonly Event[]>([]);

const MOST_EVENTS = 300;
const BUSY_MS = 1000;
const CALM_MS = 15_000;
/** Many events come together. */
const SETTLE_MS = 120;

/** Follows the daemon until the signal aborts. */
export async function followDaemon(signal: AbortSignal): Promise<void> {
  const client = daemonClient();
  const looking = new Looking(signal);
  const onOpen = (newest: number | undefined): void => {
    line.value = { state: "open" };
    if (newest !== undefined) void recall(newest).catch(() => {});
    looking.soon();
  };
  const onLost = (why: unknown): void => {
    const since = line.value.state === "lost" ? line.value.since : Date.now();
    line.value = { state: "lost", since, why: why instanceof Error ? why.message : String(why) };
  };
  const recall = async (newest: number): Promise<void> => {
    const after = Math.max(0, newest - MOST_EVENTS);
    const past = await client.call("listEvents", { query: { after, limit: MOST_EVENTS } }, { signal });
    remember(past.events);
  };
  try {
    for await (const event of client.watch({ signal, onOpen, onLost })) {
      remember([event]);
      looking.soon();
    }
  } catch (error) {
    if (signal.aborted) return;
    line.value = { state: "refused", why: error instanceof Error ? error.message : String(error) };
  }
}

function remember(more: readonly Event[]): void {
  const known = new Set(events.value.map(({ id }) => id));
  const all = [...events.value, ...more.filter(({ id }) => !known.has(id))];
  events.value = all.sort((a, b) => b.id - a.id).slice(0, MOST_EVENTS);
}

/** Looks at everything now and then. */
class Looking {
  readonly #signal: AbortSignal;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looks = false;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
  }

  soon(): void {
    this.#in(SETTLE_MS);
  }

  #in(ms: number): void {
    clearTimeout(this.#timer);
    if (!this.#signal.aborted) this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    if (this.#looks) return this.#in(SETTLE_MS);
    this.#looks = true;
    try {
      await lookAtAll(this.#signal);
    } catch (error) {
      // A line that is lost is told of by whoever follows it.
      if (!(error instanceof StreamdiskError)) throw error;
    } finally {
      this.#looks = false;
    }
    const busy = disks.value?.some(
      ({ stream }) => stream !== undefined && !hasEnded(stream) && stream.state !== "paused",
    );
    this.#in(busy && !document.hidden ? BUSY_MS : CALM_MS);
  }
}

async function lookAtAll(signal: AbortSignal): Promise<void> {
  const client = daemonClient();
  const all: Disk[] = [];
  for (let after: string | undefined, more = true; more; more = after !== undefined) {
    const query = { limit: 200, ...(after !== undefined && { after }) };
    const page: RouteResult<"listDisks"> = await client.call("listDisks", { query }, { signal });
    all.push(...page.disks);
    after = page.next;
  }
  const [info, known] = await Promise.all([
    client.call("daemon", {}, { signal }),
    client.call("listSources", {}, { signal }),
  ]);
  disks.value = all;
  sources.value = known.sources;
  daemon.value = info;
}
