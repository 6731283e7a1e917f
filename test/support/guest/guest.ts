/** A real guest under QEMU's emulation, which does to its disk what it is told over its console (`init.sh`). */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { bootArguments } from "../../../src/cli/demo/boot/initramfs.ts";
import type { BootFiles } from "./initramfs.ts";

const living = new Set<Guest>();
process.once("exit", () => {
  for (const guest of living) guest.signal("SIGKILL");
});

export class Guest implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<unknown>;
  /** Answers that nobody has asked for yet, and whoever waits for one. */
  readonly #answers: string[] = [];
  #waiting: { resolve(answer: string): void; reject(error: Error): void } | undefined;
  #console = "";
  #line = "";
  #stderr = "";

  private constructor(args: readonly string[]) {
    this.#child = spawn("qemu-system-x86_64", args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#ended = once(this.#child, "exit").then(() => {
      living.delete(this);
      this.#waiting?.reject(new Error(`the guest has ended: ${this.log}`));
    });
    living.add(this);
    this.#child.stdin.on("error", () => {});
    this.#child.stdout.setEncoding("latin1").on("data", (text: string) => this.#hear(text));
    this.#child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
    });
  }

  /**
   * Boots, until the guest takes commands.
   *
   * @param disk QEMU's options for its disk
   * @returns the guest, and the size of the disk that it sees, in bytes
   */
  static async boot(files: BootFiles, disk: readonly string[]): Promise<{ guest: Guest; diskBytes: number }> {
    const guest = new Guest([
      ...["-machine", "pc", "-accel", "tcg", "-m", "192", "-nodefaults", "-display", "none", "-no-reboot"],
      ...["-serial", "stdio", ...bootArguments(files.kernel, files.initramfs), ...disk],
    ]);
    try {
      const [, sectors = ""] = /^ready (\d+)$/.exec(await guest.#answer()) ?? [];
      assert.notEqual(sectors, "", guest.log);
      return { guest, diskBytes: Number(sectors) * 512 };
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Resolves when QEMU has ended. */
  get ended(): Promise<unknown> {
    return this.#ended;
  }

  /** What was on the console, and what QEMU said. */
  get log(): string {
    return this.#console + this.#stderr;
  }

  #hear(text: string): void {
    this.#console += text;
    this.#line += text;
    for (let end = this.#line.indexOf("\n"); end >= 0; end = this.#line.indexOf("\n")) {
      const line = this.#line.slice(0, end).trim();
      this.#line = this.#line.slice(end + 1);
      if (!line.startsWith("@")) continue;
      if (this.#waiting === undefined) this.#answers.push(line.slice(1));
      else this.#waiting.resolve(line.slice(1));
      this.#waiting = undefined;
    }
  }

  async #answer(): Promise<string> {
    const there = this.#answers.shift();
    if (there !== undefined) return there;
    if (!living.has(this)) throw new Error(`the guest has ended: ${this.log}`);
    return await new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  /** Gives a command, one at a time, and waits for the answer. */
  async does(command: string): Promise<string> {
    this.#child.stdin.write(`${command}\n`);
    return (await this.#answer()).trim();
  }

  /** Powers it off, and waits until QEMU has ended. */
  async powerOff(): Promise<void> {
    assert.equal(await this.does("off"), "off");
    await this.#ended;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal("SIGKILL");
    await this.#ended;
  }
}
