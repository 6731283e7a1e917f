/** A real machine, which the daemon has deployed: what is on its console, and whether its QEMU runs. */
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { DaemonClient, RouteInput } from "../../client/index.ts";
import { bootArguments } from "./boot/initramfs.ts";
import type { DemoGuest } from "./guest.ts";
import { GuestDiary } from "./guest-diary.ts";

const LOOK_MS = 50;
const READ_BYTES = 64 * 1024;

/** What a deployment is told of a machine that boots without a loader. */
export function machineArguments(
  kernel: string,
  initramfs: string,
): NonNullable<RouteInput<"deploy">["body"]["machine"]> {
  return { args: ["-m", "192", "-no-reboot", ...bootArguments(kernel, initramfs)] };
}

export class Machine implements DemoGuest {
  readonly diary = new GuestDiary();
  readonly #pid: number;
  readonly #over = new AbortController();
  readonly #heard: Promise<void>;

  private constructor(pid: number, consoleLog: string) {
    this.#pid = pid;
    this.#heard = this.#listen(consoleLog).catch((error: unknown) => this.diary.hear(`wrong ${error}`));
  }

  /** One that runs. */
  static async attach(client: DaemonClient, domain: string): Promise<Machine> {
    const { machine } = await client.call("getDomain", { params: { domain } });
    return new Machine(machine?.pid ?? 0, machine?.consoleLog ?? "");
  }

  /** Waits until it is off: the daemon presses the button. */
  async off(): Promise<void> {
    await this.#heard;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#heard;
  }

  /** Until its QEMU has ended, and all that it wrote is read. */
  async #listen(path: string): Promise<void> {
    const { signal } = this.#over;
    await using file = await open(path);
    let rest = "";
    for (let isOver = false; !signal.aborted && !isOver; ) {
      isOver = !isRunning(this.#pid);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, null);
      const lines = (rest + buffer.toString("latin1", 0, bytesRead)).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.diary.hear(line.trim());
      if (!isOver) await sleep(LOOK_MS);
    }
    if (!this.diary.isOff && !signal.aborted) this.diary.hear("wrong QEMU has ended without a word");
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
