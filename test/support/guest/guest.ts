/** A real guest under QEMU's emulation, which does to its disk what it is told over its console (`init.sh`). */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { GuestConsole } from "./guest-console.ts";
import type { BootFiles } from "./initramfs.ts";

const living = new Set<Guest>();
process.once("exit", () => {
  for (const guest of living) guest.signal("SIGKILL");
});

export class Guest implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<unknown>;
  readonly #console: GuestConsole;
  #stderr = "";

  private constructor(args: readonly string[]) {
    this.#child = spawn("qemu-system-x86_64", args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#ended = once(this.#child, "exit").then(() => {
      living.delete(this);
      this.#console.end();
    });
    living.add(this);
    this.#console = new GuestConsole(this.#child.stdout, this.#child.stdin);
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
      ...["-serial", "stdio", "-kernel", files.kernel, "-initrd", files.initramfs],
      ...["-append", "console=ttyS0 panic=-1 quiet", ...disk],
    ]);
    try {
      return { guest, diskBytes: await guest.#console.ready() };
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
    return this.#console.log + this.#stderr;
  }

  /** Gives a command, one at a time, and waits for the answer. */
  does(command: string): Promise<string> {
    return this.#console.does(command);
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
