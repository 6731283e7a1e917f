/** A real `streamdisk daemon` as a child of the demo: started, killed, started again at the same addresses. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { DaemonClient } from "../../client/index.ts";
import { readToken } from "../../daemon/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { unixTransport } from "../../host/index.ts";

export class DaemonChild implements AsyncDisposable {
  readonly client: DaemonClient;
  readonly #directory: string;
  #child: ChildProcess | undefined;
  #port = 0;

  /** @param directory all of it lies there */
  constructor(directory: string) {
    this.#directory = directory;
    this.client = new DaemonClient(unixTransport(join(this.#state, "daemon.sock")));
  }

  get #state(): string {
    return join(this.#directory, "state");
  }

  /**
   * Resolves when everything is served.
   *
   * @param allow beginning of the URIs that it may open
   */
  async start(allow: string): Promise<void> {
    const config = join(this.#directory, "daemon.json");
    const log = join(this.#directory, "log");
    await mkdir(log, { recursive: true, mode: 0o700 });
    // A file of its own: the settings of this machine's daemon are none of the demo's.
    // Emulated: the demo works where there is no KVM, or none that may be used.
    const own = { accelerator: "tcg", logLevel: "error" };
    const settings = { stateDirectory: this.#state, allow: [allow], ...own };
    await writeFile(config, JSON.stringify({ ...settings, listen: { port: this.#port } }));
    const main = join(import.meta.dirname, `../main${extname(import.meta.filename)}`);
    const args = [...process.execArgv, main, "daemon", "--config", config, "--json"];
    // Not in /dev/shm: kill -9 leaves a log, and the demo leaves nothing.
    const env = { ...process.env, STREAMDISK_LOG_DIR: log };
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    createInterface({ input: child.stdout }).once("line", resolve);
    child.once("error", reject);
    child.once("close", () => reject(new StreamdiskError("shutdown", `The daemon has ended: ${said.trim()}`)));
    const { addresses } = JSON.parse(await promise) as { addresses: string[] };
    this.#port = Number(new URL(addresses[1] ?? "").port);
  }

  /** Of the page, with what opens it. */
  async pageUrl(): Promise<string> {
    const token = await readToken(join(this.#state, "token"));
    return `http://127.0.0.1:${this.#port}/#token=${token}`;
  }

  /**
   * Ends it and waits for that.
   *
   * @returns its exit code; null when the signal ended it
   */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined) return null;
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill(signal);
      await ended;
    }
    return child.exitCode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }
}
