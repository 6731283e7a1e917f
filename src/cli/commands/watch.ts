import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { DaemonClient } from "../../client/index.ts";
import { mayComeBack, withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { eventLine } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { LiveScreen } from "../live-screen.ts";
import { jsonOption } from "../options.ts";
import { printJsonLine, printLines, printWarnings } from "../output.ts";
import { diskName } from "../targets.ts";
import { statusLine, type WatchedDisk, watchLines } from "../watch-lines.ts";

const LOOK_MS = 1000;
/** Where there is no terminal a figure that changes all the time is said so often. */
const SAY_MS = 5000;
const PAGE = 1000;
const KEPT_EVENTS = 6;
const AWAY = "the daemon does not answer: waiting for it";

export function define(command: Command): void {
  command.argument("<disk>", "the disk of the daemon");
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk watch vm1", "streamdisk watch vm1 --json | jq -c .disk.missingBytes"]))
    .action(async (name: string, flags: DaemonFlags) => {
      const disk = diskName(name);
      await withDaemon(flags, async (client) => {
        const watched = new Watched(client, disk);
        // One that is not there is said; a daemon that goes away later is waited for.
        const first = await watched.look();
        if (process.stdout.isTTY && !flags.json) await onScreen(watched, first);
        else await interruptible((signal) => inLines(watched, first, flags, signal));
      });
    });
}

/** Looks at a disk again and again. */
class Watched {
  readonly #client: DaemonClient;
  readonly #disk: string;
  #lastEvent = 0;
  #events: WatchedDisk["events"] = [];

  constructor(client: DaemonClient, disk: string) {
    this.#client = client;
    this.#disk = disk;
  }

  async look(signal?: AbortSignal): Promise<WatchedDisk> {
    const options = signal === undefined ? {} : { signal };
    const params = { disk: this.#disk };
    const [disk, { clients }] = await Promise.all([
      this.#client.call("getDisk", { params }, options),
      this.#client.call("diskClients", { params }, options),
    ]);
    for (;;) {
      const query = { after: this.#lastEvent, disk: this.#disk, limit: PAGE };
      const { events } = await this.#client.call("listEvents", { query }, options);
      this.#events = [...this.#events, ...events].slice(-KEPT_EVENTS);
      this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
      if (events.length < PAGE) return { disk, clients, events: this.#events };
    }
  }

  /** The same, when it is time; undefined while the daemon does not answer. */
  async next(signal: AbortSignal): Promise<WatchedDisk | undefined> {
    await sleep(LOOK_MS, undefined, { signal });
    return await this.look(signal).catch((error: unknown) => {
      if (mayComeBack(error)) return undefined;
      throw error;
    });
  }
}

async function onScreen(watched: Watched, first: WatchedDisk): Promise<void> {
  using screen = new LiveScreen();
  const { over } = screen;
  let last = first;
  let note = "";
  while (!over.aborted) {
    screen.draw(watchLines(last), note || "q ends, and changes nothing");
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
  first: WatchedDisk,
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

/** `{ disk, clients }` whenever that has changed, `{ event }` for what happens. */
class JsonLines {
  #said = "";
  #lastEvent = 0;

  begin(first: WatchedDisk): void {
    this.#lastEvent = first.events.at(-1)?.id ?? 0;
    this.more(first);
  }

  more({ disk, clients, events }: WatchedDisk): void {
    for (const event of events) if (event.id > this.#lastEvent) printJsonLine({ event });
    this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
    const text = JSON.stringify({ disk, clients });
    if (text !== this.#said) process.stdout.write(`${text}\n`);
    this.#said = text;
  }
}

/** All of it once; then a line for what happens, and now and then one for how it is. */
class PlainLines {
  #said = "";
  #saidAt = 0;
  #lastEvent = 0;

  begin(first: WatchedDisk): void {
    printLines(...watchLines(first));
    this.#lastEvent = first.events.at(-1)?.id ?? 0;
    this.#said = statusLine(first.disk);
    this.#saidAt = performance.now();
  }

  more({ disk, events }: WatchedDisk): void {
    const news = events.filter(({ id }) => id > this.#lastEvent);
    printLines(...news.map(eventLine));
    this.#lastEvent = events.at(-1)?.id ?? this.#lastEvent;
    const line = statusLine(disk);
    const now = performance.now();
    if (line === this.#said || (news.length === 0 && now - this.#saidAt < SAY_MS)) return;
    printLines(line);
    this.#said = line;
    this.#saidAt = now;
  }
}
