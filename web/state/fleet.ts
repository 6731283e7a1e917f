/**
 * All that the daemon has, and whether it answers. Kept up to date by its events: each one makes the page look again, and while a stream runs
 * it looks every second. When the line is lost it is tried again by the client, and the page says so meanwhile.
 */
import { signal } from "@preact/signals";
import type { DaemonInfo, Disk, Event, RouteResult } from "../../src/client/index.ts";
import { daemonClient } from "../session.ts";
import { isUnderWay } from "../words.ts";
import { whileInView } from "./in-view.ts";
import { Looking } from "./looking.ts";
import { lookAtMachines } from "./machines.ts";

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

/** Follows the daemon while the page is in view, until the signal aborts. */
export function followDaemon(signal: AbortSignal): Promise<void> {
  return whileInView(signal, follow);
}

async function follow(signal: AbortSignal): Promise<void> {
  const client = daemonClient();
  const all = [new Looking({ signal, look: lookAtAll, isBusy: isAnyStreamed }), lookAtMachines(signal)];
  const lookSoon = (): void => {
    for (const looking of all) looking.soon();
  };
  const onOpen = (newest: number | undefined): void => {
    line.value = { state: "open" };
    if (newest !== undefined) void recall(newest).catch(() => {});
    lookSoon();
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
      lookSoon();
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

function isAnyStreamed(): boolean {
  return disks.value?.some(({ stream }) => isUnderWay(stream)) === true;
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
