/** Machines that a daemon under test runs: their XML, and their ends by force. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

const directories = new Set<string>();
process.once("exit", () => {
  for (const directory of directories) killMachines(directory);
});

/**
 * A directory for a daemon with machines. When the test is over the daemon is closed, then its machines are ended, then all is removed.
 *
 * @param machines where in it machines have their directories
 */
export function directoryWithMachines(t: TestContext, machines: string, close: () => Promise<unknown>): string {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-test-"));
  const place = join(directory, machines);
  directories.add(place);
  t.after(async () => {
    await close();
    killMachines(place);
    directories.delete(place);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** Ends QEMU and the shell that waits for it, as the end of their host does. */
export function killMachines(directory: string): void {
  for (const name of namesIn(directory)) {
    try {
      process.kill(-groupOf(machinePid(directory, name)), "SIGKILL");
    } catch {
      // It runs no more.
    }
  }
}

export function machinePid(directory: string, name: string): number {
  return Number(readFileSync(join(directory, name, "pid"), "latin1"));
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** The process group of a process (proc(5), /proc/PID/stat). */
function groupOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2]);
}

export interface MachineParts {
  readonly name: string;
  /** In `<os>`, after the type. */
  readonly os?: string;
  /** In `<devices>`. */
  readonly devices?: string;
  /** After the devices. */
  readonly more?: string;
}

/** The XML of a small machine under QEMU's emulation. */
export function machineXml({ name, os = "", devices = "", more = "" }: MachineParts): string {
  return `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>${name}</name>
  <memory unit='MiB'>192</memory>
  <os><type arch='x86_64'>hvm</type>${os}</os>
  <devices>${devices}</devices>${more}
</domain>`;
}

/** A disk of it. */
export function imageDisk(path: string, format: string, target = "vda"): string {
  return `<disk type='file'><driver name='qemu' type='${format}'/><source file='${path}'/><target dev='${target}' bus='virtio'/></disk>`;
}

/** A disk of it that is an export. */
export function exportDisk(socket: string, target = "vda"): string {
  return `<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd' name=''><host transport='unix' socket='${socket}'/></source><target dev='${target}' bus='virtio'/></disk>`;
}
