/**
 * NBD servers of others as peers of tests: nbdkit and qemu-nbd, each on a socket of its own in a directory of its own.
 * Whatever was started is ended, by its pid, at the latest when this process ends.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const living = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of living) child.kill("SIGKILL");
});

export interface NbdServerOptions {
  /** Listens on TCP, on the loopback, in place of a Unix socket. @default false */
  readonly tcp?: boolean;
  /** Whether the URI says TLS. @default false */
  readonly tls?: boolean;
  /** @default "" */
  readonly exportName?: string;
  /** Query of the URI, without `socket`. */
  readonly query?: string;
}

/** A server that runs, and can be stopped and started again at the same place. */
export class NbdServerProcess implements AsyncDisposable {
  readonly uri: string;
  readonly #program: string;
  readonly #args: readonly string[];
  readonly #directory: string;
  readonly #pidFile: string;
  #child: ChildProcess | undefined;
  #stderr = "";

  /** Made by {@link startNbdkit} and {@link startQemuNbd}. */
  constructor(program: string, args: readonly string[], directory: string, pidFile: string, uri: string) {
    this.#program = program;
    this.#args = args;
    this.#directory = directory;
    this.#pidFile = pidFile;
    this.uri = uri;
  }

  get pid(): number {
    return this.#child?.pid ?? Number.NaN;
  }

  /** Resolves when it accepts connections. */
  async start(): Promise<void> {
    // Those that were killed leave theirs behind.
    for (const left of ["pid", "socket"]) rmSync(join(this.#directory, left), { force: true });
    const child = spawn(this.#program, this.#args, { stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    living.add(child);
    child.once("exit", () => living.delete(child));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
    });
    while (!existsSync(this.#pidFile)) {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`${this.#program} ${this.#args.join(" ")} has ended: ${this.#stderr}`);
      }
      await sleep(5);
    }
  }

  /** Resolves when it is frozen with all of its threads: the signal alone leaves them time for some more replies. */
  async freeze(): Promise<void> {
    this.#child?.kill("SIGSTOP");
    const threads = `/proc/${this.pid}/task`;
    const isStopped = (thread: string): boolean =>
      /^.*\) T /s.test(readFileSync(join(threads, thread, "stat"), "latin1"));
    while (!readdirSync(threads).every(isStopped)) await sleep(1);
  }

  /** Lets it go on. */
  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  /** Resolves when it has ended by itself. */
  async ended(): Promise<void> {
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }

  /** Ends it, and waits until it has. */
  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    // One that is frozen hears only this.
    child.kill("SIGCONT");
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** @param args plugin, filters and their parameters */
export function startNbdkit(args: readonly string[], options: NbdServerOptions = {}): Promise<NbdServerProcess> {
  return start("nbdkit", options, ({ pidFile, socket, port }) => [
    ...["-f", "-P", pidFile],
    ...(port === undefined ? ["-U", socket] : ["-i", "127.0.0.1", "-p", String(port)]),
    ...args,
  ]);
}

/** @param args options and the image */
export function startQemuNbd(args: readonly string[], options: NbdServerOptions = {}): Promise<NbdServerProcess> {
  return start("qemu-nbd", options, ({ pidFile, socket, port }) => [
    // By default it serves one client at a time, and the next one waits without a word.
    ...["-t", "-e", "8", `--pid-file=${pidFile}`],
    ...(port === undefined ? ["-k", socket] : ["-b", "127.0.0.1", "-p", String(port)]),
    ...args,
  ]);
}

interface Place {
  readonly pidFile: string;
  readonly socket: string;
  readonly port: number | undefined;
}

async function start(
  program: string,
  { tcp = false, tls = false, exportName = "", query = "" }: NbdServerOptions,
  args: (place: Place) => string[],
): Promise<NbdServerProcess> {
  const directory = mkdtempSync(join(tmpdir(), `streamdisk-${program}-`));
  const place: Place = {
    pidFile: join(directory, "pid"),
    socket: join(directory, "socket"),
    port: tcp ? await freePort() : undefined,
  };
  const scheme = `nbd${tls ? "s" : ""}${tcp ? "" : "+unix"}`;
  const authority = tcp ? `127.0.0.1:${place.port}` : "";
  const search = [tcp ? "" : `socket=${place.socket}`, query].filter((part) => part !== "").join("&");
  const uri = `${scheme}://${authority}/${encodeURIComponent(exportName)}${search === "" ? "" : `?${search}`}`;
  const server = new NbdServerProcess(program, args(place), directory, place.pidFile, uri);
  await server.start();
  return server;
}

/** A port of the loopback that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("No port");
  return address.port;
}
