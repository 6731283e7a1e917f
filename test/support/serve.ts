/** A `streamdisk serve` that runs, as its users meet it: what it said, its address, its end. */
import assert from "node:assert/strict";
import type { DiskInfo } from "../../src/engine/index.ts";
import { type CliEnd, type CliOptions, startCli } from "./cli.ts";

const living = new Set<Serving>();
process.once("exit", () => {
  for (const { child } of living) child.kill("SIGKILL");
});

/** One of its JSON lines. */
export interface ServeLine {
  readonly event: string;
  readonly uri?: string;
  readonly blockdev?: string;
  readonly libvirt?: string;
  readonly info?: DiskInfo;
  readonly missingBytes?: number;
}

type Serving = ReturnType<typeof startCli>;

export class RunningServe implements AsyncDisposable {
  readonly pid: number;
  readonly ended: Promise<CliEnd>;
  /** All that was said, one line each. */
  readonly lines: string[] = [];
  readonly #running: Serving;
  #waiting: { readonly wanted: (line: string) => boolean; readonly found: (line: string) => void }[] = [];

  constructor(args: readonly string[], options: CliOptions) {
    this.#running = startCli(["serve", ...args], { ...options, onLine: (line) => this.#hear(line) });
    living.add(this.#running);
    this.pid = this.#running.child.pid ?? Number.NaN;
    this.ended = this.#running.ended.finally(() => living.delete(this.#running));
    this.ended.catch(() => {});
  }

  #hear(line: string): void {
    this.lines.push(line);
    for (const waiting of this.#waiting) if (waiting.wanted(line)) waiting.found(line);
    this.#waiting = this.#waiting.filter(({ wanted }) => !wanted(line));
  }

  /** The first line that is wanted, past or to come. @throws {Error} when it ends without */
  async line(wanted: (line: string) => boolean): Promise<string> {
    const there = this.lines.find(wanted);
    if (there !== undefined) return there;
    const found = new Promise<string>((resolve) => this.#waiting.push({ wanted, found: resolve }));
    const ended = this.ended.then(({ exit, stdout, stderr }) => {
      throw new Error(`serve has ended (${exit}): ${stdout}${stderr}`);
    });
    return await Promise.race([found, ended]);
  }

  /** The first JSON line of an event. */
  async event(name: string, wanted: (line: ServeLine) => boolean = () => true): Promise<ServeLine> {
    const isIt = (text: string): boolean => {
      const line = JSON.parse(text) as ServeLine;
      return line.event === name && wanted(line);
    };
    return JSON.parse(await this.line(isIt)) as ServeLine;
  }

  signal(signal: NodeJS.Signals): void {
    this.#running.child.kill(signal);
  }

  /** Ends it as Ctrl-C does, or by another signal. */
  async stop(signal: NodeJS.Signals = "SIGINT"): Promise<CliEnd> {
    this.signal(signal);
    return await this.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** Starts `streamdisk serve ARGS... --json`, and resolves when it serves. */
export async function startServe(
  args: readonly string[],
  options: CliOptions = {},
): Promise<{ readonly serve: RunningServe; readonly uri: string }> {
  const serve = new RunningServe([...args, "--json"], options);
  const { uri } = await serve.event("serving");
  assert(uri !== undefined);
  return { serve, uri };
}
