/**
 * QEMU's programs as peers of tests: the tools, run to their end, and a live QEMU or storage daemon, spoken to by QMP over its
 * standard streams. Whatever was started is ended, by its pid, at the latest when this process ends.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";

/** How a program ended. */
export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever that is. */
export function run(program: string, ...args: readonly string[]): Ended {
  const { error, status, stdout, stderr } = spawnSync(program, args, {
    encoding: "utf8",
    maxBuffer: 256 * 1024 * 1024,
  });
  if (error !== undefined) throw error;
  return { status, stdout, stderr };
}

/** Runs qemu-img, which must succeed. @returns what it printed */
export function qemuImg(...args: readonly string[]): string {
  return succeed("qemu-img", args);
}

/** Runs qemu-io's commands on an image, which must succeed. @returns what it printed */
export function qemuIo(image: string, commands: readonly string[], ...options: readonly string[]): string {
  const said = succeed("qemu-io", [...options, ...commands.flatMap((command) => ["-c", command]), image]);
  // A pattern that doesn't match is no failure to qemu-io.
  assert.doesNotMatch(said, /Pattern verification failed/);
  return said;
}

function succeed(program: string, args: readonly string[]): string {
  const { status, stdout, stderr } = run(program, ...args);
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

type Arguments = Readonly<Record<string, unknown>>;

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly event?: string;
}

const living = new Set<ChildProcessByStdio<Writable, Readable, Readable>>();
process.once("exit", () => {
  for (const child of living) child.kill("SIGKILL");
});

/** A running QEMU with a QMP monitor. */
export class LiveQemu implements AsyncDisposable {
  readonly pid: number;
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #lines: AsyncIterator<string>;
  readonly #ended: Promise<unknown>;
  #stderr = "";

  /** Use {@link startGuest} or {@link startStorageDaemon}. */
  constructor(program: string, args: readonly string[]) {
    this.#child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#ended = once(this.#child, "exit");
    living.add(this.#child);
    this.#child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
    });
    // What is written to a QEMU that has ended is answered by its end.
    this.#child.stdin.on("error", () => {});
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
    assert.ok(this.#child.pid !== undefined);
    this.pid = this.#child.pid;
  }

  /** Waits until it is up, with all that its arguments open. */
  async greet(): Promise<void> {
    await this.#lines.next();
    await this.execute("qmp_capabilities");
  }

  /** Runs a QMP command, one at a time, and passes over events. @throws {Error} with QEMU's message */
  async execute(command: string, args: Arguments = {}): Promise<unknown> {
    this.#child.stdin.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`QEMU ended: ${this.#stderr}`);
      const answer = JSON.parse(value) as Answer;
      if (answer.event !== undefined) continue;
      if (answer.error !== undefined) throw new Error(answer.error.desc);
      return answer.return;
    }
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
    living.delete(this.#child);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

const QUIET = ["-nodefaults", "-display", "none", "-S", "-qmp", "stdio"];

/**
 * A QEMU without a machine to speak of, stopped, that has block nodes open.
 *
 * @param nodes as for `blockdev-add`
 */
export function startGuest(...nodes: readonly Arguments[]): Promise<LiveQemu> {
  const blockdevs = nodes.flatMap((node) => ["-blockdev", JSON.stringify(node)]);
  return start("qemu-system-x86_64", ["-machine", "none", ...QUIET, ...blockdevs]);
}

/** The same, with a second monitor for the program under test, and a machine that has devices. */
export function startMonitored(monitor: string, ...args: readonly string[]): Promise<LiveQemu> {
  const socket = ["-qmp", `unix:${monitor},server=on,wait=off`];
  return start("qemu-system-x86_64", ["-machine", "pc", "-accel", "tcg", "-m", "32", ...QUIET, ...socket, ...args]);
}

/** The same without a guest. */
export function startStorageDaemon(...nodes: readonly Arguments[]): Promise<LiveQemu> {
  const monitor = ["--chardev", "stdio,id=stdio", "--monitor", "chardev=stdio"];
  return start("qemu-storage-daemon", [...nodes.flatMap((node) => ["--blockdev", JSON.stringify(node)]), ...monitor]);
}

async function start(program: string, args: readonly string[]): Promise<LiveQemu> {
  const qemu = new LiveQemu(program, args);
  try {
    await qemu.greet();
    return qemu;
  } catch (error) {
    await qemu.kill();
    throw error;
  }
}
