/**
 * A real libvirtd, with a directory of its own for all that it has: in the foreground, and for one user. As root it and its QEMUs run as
 * `nobody`, since a libvirtd of root's is the one of the whole machine; otherwise as the user of the test.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GuestConsole, logLength } from "./guest/console.ts";
import { type BootFiles, bootXml } from "./guest/initramfs.ts";
import { peer, runPeer } from "./peer-process.ts";

const NOBODY = 65534;

const living = new Set<Libvirtd>();
process.once("exit", () => {
  for (const libvirtd of living) libvirtd.kill();
});

export class Libvirtd implements AsyncDisposable {
  /** What virsh connects to. */
  readonly uri: string;
  readonly #directory: string;
  #child: ChildProcess | undefined;
  #said = "";
  /** How long the log of the console was before the machine was started. */
  #logFrom = 0;

  private constructor(directory: string) {
    this.#directory = directory;
    for (const place of ["", "run", "cache", "home", "home/.config", "home/.config/libvirt"]) {
      mkdirSync(join(directory, place), { recursive: true });
      this.give(join(directory, place));
    }
    const settings = ['security_driver = "none"', 'stdio_handler = "file"'].join("\n");
    writeFileSync(join(directory, "home/.config/libvirt/qemu.conf"), settings);
    writeFileSync(join(directory, "libvirtd.conf"), 'auth_unix_rw = "none"\n');
    this.uri = `qemu+unix:///session?socket=${join(directory, "run/libvirt/libvirt-sock")}`;
  }

  /** Starts one that has no machines yet. */
  static async start(): Promise<Libvirtd> {
    const libvirtd = new Libvirtd(mkdtempSync(join(tmpdir(), "streamdisk-lv-")));
    living.add(libvirtd);
    await libvirtd.start();
    return libvirtd;
  }

  /** Lets it and its QEMUs use a file. */
  give(path: string): void {
    if (process.getuid?.() === 0) chownSync(path, NOBODY, NOBODY);
    else chmodSync(path, 0o777);
  }

  /** Starts it again. Resolves when it answers. */
  async start(): Promise<void> {
    const at = (place: string): string => join(this.#directory, place);
    const as =
      process.getuid?.() === 0 ? ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"] : ["env"];
    const [program = "", ...args] = [...as, "libvirtd", "--config", at("libvirtd.conf")];
    const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
    const env = { PATH, HOME: at("home"), XDG_RUNTIME_DIR: at("run"), XDG_CACHE_HOME: at("cache") };
    const child = spawn(program, args, { env, stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#said += text;
    });
    while ((await runPeer("virsh", "-q", "-c", this.uri, "uri")).status !== 0) {
      assert.equal(child.exitCode, null, this.#said);
      await sleep(50);
    }
  }

  /** Its machines run on. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  }

  /** Runs a command of virsh's, which must succeed. @returns what it printed */
  async virsh(...args: readonly string[]): Promise<string> {
    return (await peer("virsh", "-q", "-c", this.uri, ...args)).trim();
  }

  /** Describes a machine to it, which has one disk. */
  async define({ name, image, format = "qcow2", boot }: LibvirtMachine): Promise<void> {
    const xml = `<domain type='qemu'><name>${name}</name><memory unit='MiB'>192</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type>${boot === undefined ? "" : bootXml(boot)}</os><features><acpi/></features>
      <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
        <disk type='file' device='disk'>
          <driver name='qemu' type='${format}'/><source file='${image}'/><target dev='vda' bus='virtio'/>
        </disk>
        <controller type='usb' model='none'/><memballoon model='none'/>
        <serial type='unix'>
          <source mode='bind' path='${this.#consoleOf(name, "console")}'/><log file='${this.#consoleOf(name, "log")}' append='on'/>
        </serial>
      </devices></domain>`;
    const file = join(this.#directory, "machine.xml");
    writeFileSync(file, xml);
    await this.virsh("define", file);
  }

  /** Waits for the guest of a machine that was started. */
  guestOf(name: string): Promise<{ guest: GuestConsole; diskBytes: number }> {
    const log = this.#consoleOf(name, "log");
    return GuestConsole.boot(this.#consoleOf(name, "console"), log, this.#logFrom);
  }

  /** Starts a machine. */
  async startMachine(name: string): Promise<void> {
    this.#logFrom = logLength(this.#consoleOf(name, "log"));
    await this.virsh("start", name);
  }

  /** Its machines are ended too. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    this.kill();
    living.delete(this);
  }

  /** Ends all, without waiting. */
  kill(): void {
    this.#child?.kill("SIGKILL");
    this.#killMachines();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** They are nobody's children, and their pids are in files. */
  #killMachines(): void {
    for (const file of globSync(join(this.#directory, "run/libvirt/qemu/run/*.pid"))) {
      if (basename(file) === "driver.pid") continue;
      const pid = Number(readFileSync(file, "utf8"));
      const comm = `/proc/${pid}/comm`;
      if (existsSync(comm) && readFileSync(comm, "utf8").startsWith("qemu")) process.kill(pid, "SIGKILL");
    }
  }

  #consoleOf(name: string, what: "console" | "log"): string {
    return join(this.#directory, `${name.replaceAll(" ", "-")}.${what}`);
  }
}

export interface LibvirtMachine {
  readonly name: string;
  readonly image: string;
  /** @default "qcow2" */
  readonly format?: string;
  /** What its guest boots; without it, it finds nothing to boot. */
  readonly boot?: BootFiles;
}
