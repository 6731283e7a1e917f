/** A real machine: QEMU, which emulates the processor, so that the demo works where there is no KVM. */
import { type ChildProcess, spawn } from "node:child_process";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { QmpClient } from "../../domain/index.ts";
import { KERNEL_COMMAND_LINE } from "./boot/initramfs.ts";
import type { DemoGuest } from "./guest.ts";
import { GuestDiary } from "./guest-diary.ts";

const LOOK_MS = 50;
const RECONNECT_SECONDS = 60;

export class Machine implements DemoGuest {
  readonly diary = new GuestDiary();
  readonly #child: ChildProcess;
  readonly #qmp: QmpClient;
  readonly #ended: Promise<void>;
  readonly #over = new AbortController();

  private constructor(directory: string, args: readonly string[]) {
    const socket = join(directory, "qmp");
    const console = join(directory, "console");
    const own = ["-qmp", `unix:${socket},server=on,wait=off`, "-serial", `file:${console}`];
    this.#child = spawn("qemu-system-x86_64", [...args, ...own], { stdio: ["ignore", "ignore", "pipe"] });
    this.#qmp = new QmpClient(socket);
    let said = "";
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    this.#ended = new Promise((resolve) => this.#child.once("close", () => resolve()));
    this.#child.once("error", (error) => this.diary.hear(`wrong ${error.message}`));
    void this.#ended.then(() => {
      if (!this.diary.isOff && !this.#over.signal.aborted) this.diary.hear(`wrong QEMU has ended: ${said.trim()}`);
    });
    this.#listen(console).catch((error: unknown) => this.diary.hear(`wrong ${error}`));
  }

  static start(directory: string, kernel: string, initramfs: string, uri: string): Machine {
    const { pathname, searchParams } = new URL(uri);
    const server = { type: "unix", path: searchParams.get("socket") };
    const node = { driver: "nbd", "node-name": "disk0", server, export: pathname.slice(1) };
    const disk = JSON.stringify({ ...node, "reconnect-delay": RECONNECT_SECONDS });
    return new Machine(directory, [
      ...["-machine", "pc", "-accel", "tcg", "-m", "192", "-nodefaults", "-display", "none", "-no-reboot"],
      ...["-kernel", kernel, "-initrd", initramfs, "-append", KERNEL_COMMAND_LINE],
      ...["-blockdev", disk, "-device", "virtio-blk-pci,drive=disk0,rerror=stop,werror=stop"],
    ]);
  }

  async powerOff(): Promise<void> {
    await this.#qmp.execute("system_powerdown", {});
    await this.#ended;
    while (!this.diary.isOff && this.diary.wrong === undefined) await sleep(LOOK_MS);
    this.#over.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    this.#qmp[Symbol.dispose]();
    if (this.#child.pid === undefined) return;
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  async #listen(path: string): Promise<void> {
    const { signal } = this.#over;
    let rest = "";
    for (let at = 0; !signal.aborted; await sleep(LOOK_MS)) {
      const file = await open(path).catch(() => undefined);
      if (file === undefined) continue;
      const { buffer, bytesRead } = await file.read(Buffer.alloc(64 * 1024), 0, 64 * 1024, at);
      await file.close();
      at += bytesRead;
      const lines = (rest + buffer.toString("latin1", 0, bytesRead)).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.diary.hear(line.trim());
    }
  }
}
