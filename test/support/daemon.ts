/** A real `streamdisk daemon` on a state directory: started, killed, started again. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DaemonClient } from "../../src/client/index.ts";
import { unixTransport } from "../../src/host/index.ts";
import { type CliEnd, type RunningCli, startCli } from "./cli.ts";

const living = new Set<RunningCli>();
process.once("exit", () => {
  for (const { child } of living) child.kill("SIGKILL");
});

export class DaemonProcess implements AsyncDisposable {
  readonly state: string;
  readonly images: string;
  readonly socket: string;
  readonly client: DaemonClient;
  readonly #args: readonly string[];
  readonly #environment: Readonly<Record<string, string>>;
  readonly #under: readonly string[];
  #running: RunningCli | undefined;

  /**
   * @param directory everything of it lies below: `state`, and `images`, which may be used by disks
   * @param under a command in front
   */
  constructor(
    directory: string,
    args: readonly string[] = [],
    environment: Readonly<Record<string, string>> = {},
    under: readonly string[] = [],
  ) {
    this.#environment = environment;
    this.#under = under;
    this.state = join(directory, "state");
    this.images = join(directory, "images");
    this.socket = join(this.state, "daemon.sock");
    mkdirSync(this.images, { recursive: true });
    const places = ["--state-directory", this.state, "--allow", this.images];
    this.#args = ["daemon", ...places, "--log-level", "warn", "--json", ...args];
    this.client = new DaemonClient(unixTransport(this.socket));
  }

  /** Variables that make commands speak to it. */
  get env(): Readonly<Record<string, string>> {
    return { STREAMDISK_DAEMON: this.socket };
  }

  /** Resolves when its API answers. @param program another build of it @returns where it listens */
  async start(program?: string): Promise<readonly string[]> {
    const { promise: line, resolve: heard } = Promise.withResolvers<string>();
    const running = startCli(this.#args, {
      onLine: heard,
      env: this.#environment,
      under: this.#under,
      ...(program !== undefined && { program }),
    });
    this.#running = running;
    living.add(running);
    const ended = running.ended.then(({ exit, stderr }): never => {
      living.delete(running);
      throw new Error(`the daemon has ended (${exit}): ${stderr}`);
    });
    ended.catch(() => {});
    const { addresses } = JSON.parse(await Promise.race([line, ended])) as { addresses: string[] };
    return addresses;
  }

  /** Ends it, and waits for that. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<CliEnd | undefined> {
    this.#running?.child.kill(signal);
    return await this.#running?.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}
