/** What tests of the page stand on: the built program, run as a daemon with its page. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Browser } from "playwright-core";
import type { Disk } from "../../src/client/index.ts";
import { Look, type LookOptions } from "./browser.ts";
import { buildProgram } from "./built-program.ts";
import { temporaryDirectory } from "./cli.ts";
import { DaemonProcess } from "./daemon.ts";
import { freePort, type NbdServerProcess } from "./nbd-servers.ts";

let built: string | undefined;

/** The built program: once a process, and gone with it. */
export function program(): string {
  if (built !== undefined) return built;
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-page-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  built = buildProgram(join(directory, "program"));
  return built;
}

/** A daemon of the built program, with its page. */
export class Bench implements AsyncDisposable {
  readonly daemon: DaemonProcess;
  readonly #port: number;
  readonly #browser: Browser;

  private constructor(t: TestContext, browser: Browser, port: number, sources: readonly NbdServerProcess[]) {
    this.#port = port;
    this.#browser = browser;
    const allowed = sources.flatMap(({ uri }) => ["--allow", uri]);
    this.daemon = new DaemonProcess(temporaryDirectory(t), ["--port", String(port), ...allowed]);
  }

  static async start(t: TestContext, browser: Browser, ...sources: NbdServerProcess[]): Promise<Bench> {
    const bench = new Bench(t, browser, await freePort(), sources);
    await bench.daemon.start(program());
    return bench;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/`;
  }

  create(name: string, source: NbdServerProcess): Promise<Disk> {
    const onSourceError = { holdMs: null, afterwards: "error" as const };
    const body = { name, backing: source.uri, backingFormat: "raw" as const, onSourceError };
    return this.daemon.client.call("createDisk", { body });
  }

  /** Opens the page as the printed address does. */
  look(options?: LookOptions): Promise<Look> {
    const token = readFileSync(join(this.daemon.state, "token"), "utf8").trim();
    return Look.open(this.#browser, `${this.url}#token=${token}`, options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.daemon[Symbol.asyncDispose]();
  }
}
