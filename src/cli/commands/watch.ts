import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { Event } from "../../api/index.ts";
import type { CallOptions, DaemonClient } from "../../client/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { mayComeBack, withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { eventLine } from "../disk-lines.ts";
import { domainStatusLine, domainWatchLines } from "../domain-watch.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { LiveScreen } from "../live-screen.ts";
import { jsonOption } from "../options.ts";
import { printJsonLine, printLines, printWarnings } from "../output.ts";
import { type DiskTarget, type DomainTarget, diskTarget } from "../targets.ts";
import { statusLine, watchLines } from "../watch-lines.ts";

const LOOK_MS = 1000;
/** Where there is no terminal a figure that changes all the time is said so often. */
const SAY_MS = 5000;
const PAGE = 1000;
const KEPT_EVENTS = 6;
const AWAY = "the daemon does not answer: waiting for it";

export function define(command: Command): void {
  command.argument("<disk>", "the disk of the daemon, or a domain's as DOMAIN:DEVICE");
  const examples = [
    "streamdisk watch vm1",
    "streamdisk watch web:vda",
    "streamdisk watch vm1 --json | jq -c .disk.missingBytes",
  ];
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(examples))
    .action(async (name: string, flags: DaemonFlags) => {
      const target = diskTarget(name);
      await withDaemon(flags, async (client) => {
        const watched = new Watched(client, target);
        // One that is not there is said; a daemon that goes away later is waited for.
        const first = await watched.look();
        if (process.stdout.isTTY && !flags.json) await onScreen(watched, first);
        else await interruptible((signal) => inLines(watched, first, flags, signal));
      });
    });
}

/** A disk as it was when it was looked at. */
interface Look {
  readonly lines: readonly string[];
  /** How it is, in a line for a log. */
  readonly status: string;
  /** What programs are told of it. */
  readonly json: object;
  /** The last ones, in order. */
  readonly events: readonly Event[];
}

/** Looks at a disk again and again. */
class Watched {
  readonly #client: DaemonClient;
  readonly #target: DiskTarget;
  #lastEvent = 0;
  #events: readonly Event[] = [];

  constructor(client: DaemonClient, target: DiskTarget) {
    this.#client = client;
    this.#target = target;
  }

  async look(signal?: AbortSignal): Promise<Look> {
    const options = signal === undefined ? {} : { signal };
    const target = this.#target;
    return target.kind === "disk" ? this.#lookAtDisk(target.name, options) : this.#lookAtDomain(target, options);
  }

  async #lookAtDisk(name: string, options: CallOptions): Promise<Look> {
    const params = { disk: name };
    const [disk, { clients }] = await Promise.all([
      this.#client.call("getDisk", { params }, options),
      this.#client.call("diskClients", { params }, options),
    ]);
    const events = await this.#more(name, options);
    const lines = watchLines({ disk, clients, events });
    return { lines, status: statusLine(disk), json: { disk, clients }, events };
  }

  async #lookAtDomain({ domain: name, device }: DomainTarget, options: CallOptions): Promise<Look> {
    const domain = await this.#client.call("getDomain", { params: { domain: name } }, options);
    const disk = domain.disks.find(({ target, alias, image }) => [target, alias, image].includes(device));
    if (disk === undefined) {
      const there = domain.disks.map(({ target }) => target).join(", ") || "none";
      throw new StreamdiskError("not-found", `The domain '${name}' has no disk '${device}': it has ${there}`);
    }
    const events = await this.#more(disk.name, options);
    const watched = { domain, disk, events };
    const { disks: _disks, ...machine } = domain;
    return { lines: domainWatchLines(watched), status: domainStatusLine(watched), json: { disk, machine }, events };
  }

  /** The last events, with those that came since the last time. */
  async #more(disk: string, options: CallOptions): Promise<readonly Event[]> {
    for (;;) {
      const query = { after: this.#lastEvent, disk, limit: PAGE };
      const { events } = await this.#client.call("listEvents", { query }, options);
      this.#events = [...this.#events, ...events].slice(-KEPT_EVENTS);
      this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
      if (events.length < PAGE) return this.#events;
    }
  }

  /** The same, when it is time; undefined while the daemon does not answer. */
  async next(signal: AbortSignal): Promise<Look | undefined> {
    await sleep(LOOK_MS, undefined, { signal });
    return await this.look(signal).catch((error: unknown) => {
      if (mayComeBack(error)) return undefined;
      throw error;
    });
  }
}

async function onScreen(watched: Watched, first: Look): Promise<void> {
  using screen = new LiveScreen();
  const { over } = screen;
  let last = first;
  let note = "";
  while (!over.aborted) {
    screen.draw(last.lines, note || "q ends, and changes nothing");
    try {
      const now = await watched.next(over);
      note = now === undefined ? AWAY : "";
      last = now ?? last;
    } catch (error) {
      if (!over.aborted) throw error;
    }
  }
}

/** Until Ctrl-C. */
async function inLines(
  watched: Watched,
  first: Look,
  { json = false }: DaemonFlags,
  signal: AbortSignal,
): Promise<never> {
  const say = json ? new JsonLines() : new PlainLines();
  say.begin(first);
  for (let away = false; ; ) {
    const now = await watched.next(signal);
    if (now !== undefined) say.more(now);
    else if (!away) printWarnings([AWAY]);
    away = now === undefined;
  }
}

/** `{ disk, clients }`, of a domain's `{ disk, machine }`, whenever that has changed, `{ event }` for what happens. */
class JsonLines {
  #said = "";
  #lastEvent = 0;

  begin(first: Look): void {
    this.#lastEvent = first.events.at(-1)?.id ?? 0;
    this.more(first);
  }

  more({ json, events }: Look): void {
    for (const event of events) if (event.id > this.#lastEvent) printJsonLine({ event });
    this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
    const text = JSON.stringify(json);
    if (text !== this.#said) process.stdout.write(`${text}\n`);
    this.#said = text;
  }
}

/** All of it once; then a line for what happens, and now and then one for how it is. */
class PlainLines {
  #said = "";
  #saidAt = 0;
  #lastEvent = 0;

  begin(first: Look): void {
    printLines(...first.lines);
    this.#lastEvent = first.events.at(-1)?.id ?? 0;
    this.#said = first.status;
    this.#saidAt = performance.now();
  }

  more({ status: line, events }: Look): void {
    const news = events.filter(({ id }) => id > this.#lastEvent);
    printLines(...news.map(eventLine));
    this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
    const now = performance.now();
    if (line === this.#said || (news.length === 0 && now - this.#saidAt < SAY_MS)) return;
    printLines(line);
    this.#said = line;
    this.#saidAt = now;
  }
}
