/** What `serve` shows while it serves: a status line on a terminal, or JSON lines. */
import type { ServedDisk } from "../engine/index.ts";
import { printable, printJsonLine } from "./output.ts";
import { formatSize } from "./units.ts";

const LOOK_MS = 1000;
/** A look walks the tables of the image: of a large one it takes its time, and may take this part of all time. */
const MOST_OF_TIME = 1 / 20;

export class ServeStatus {
  readonly #disk: ServedDisk;
  readonly #json: boolean;
  /** What happened before it was time to say so. */
  #early: (() => void)[] | undefined = [];
  #timer: NodeJS.Timeout | undefined;
  #fetchedBefore = 0;
  #lookedAt = performance.now();
  #shown = false;

  constructor(disk: ServedDisk, json: boolean) {
    this.#disk = disk;
    this.#json = json;
    disk.on("source", ({ state, message }) => this.#say("source", { state, message }, sourceLine(state, message)));
    disk.on("hydrated", () => this.#say("hydrated", {}, "nothing is missing any more: the disk stands alone"));
    disk.on("stream-failed", ({ code, message }) => this.#say("stream-failed", { code, message }, message));
  }

  /** From now on it shows what it hears. */
  begin(): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const say of early) say();
    if (this.#json || process.stderr.isTTY) this.#lookLater(LOOK_MS);
  }

  #lookLater(wait: number): void {
    this.#timer = setTimeout(async () => {
      const began = performance.now();
      await this.#look(began);
      if (this.#timer !== undefined) this.#lookLater(Math.max(LOOK_MS, (performance.now() - began) / MOST_OF_TIME));
    }, wait);
  }

  /** Something happened: a line that stays. */
  #say(event: string, facts: object, line: string): void {
    if (this.#early !== undefined) this.#early.push(() => this.#say(event, facts, line));
    else if (this.#json) printJsonLine({ event, ...facts });
    else this.#line(printable(line));
  }

  #line(text: string): void {
    process.stderr.write(`${this.#shown ? "\r\u001b[K" : ""}streamdisk: ${text}\n`);
    this.#shown = false;
  }

  async #look(now: number): Promise<void> {
    try {
      const info = await this.#disk.info();
      if (this.#timer === undefined) return;
      const done = info.fetchedBytes + (info.stream?.copiedBytes ?? 0);
      const rate = (Math.max(0, done - this.#fetchedBefore) * 1000) / (now - this.#lookedAt);
      this.#fetchedBefore = done;
      this.#lookedAt = now;
      const local = info.length === 0 ? 1 : 1 - info.missingBytes / info.length;
      if (this.#json) {
        const { localBytes, zeroBytes, missingBytes, clients, source } = info;
        printJsonLine({ event: "status", localBytes, zeroBytes, missingBytes, rate, clients, source });
        return;
      }
      const percent = `${Math.floor(local * 100)}% local`;
      const people = `${info.clients} client${info.clients === 1 ? "" : "s"}`;
      const source = info.source.state === "none" ? "stands alone" : `source ${info.source.state}`;
      process.stderr.write(`\r\u001b[K${percent}  ${formatSize(rate)}/s  ${people}  ${source}`);
      this.#shown = true;
    } catch {
      // The disk is being closed.
    }
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#shown) process.stderr.write("\n");
    this.#shown = false;
  }
}

function sourceLine(state: string, message: string | undefined): string {
  if (state === "deleted" || state === "changed") return message ?? `the source is ${state}`;
  if (state === "lost") return `the source is lost: ${message ?? ""}; local data is served on`;
  return "the source is back";
}
