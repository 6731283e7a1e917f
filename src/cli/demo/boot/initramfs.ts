/** The first file system of a small guest: a static busybox, the modules that its disk needs, and a script that is all it runs. */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { StreamdiskError } from "../../../errors/index.ts";
import type { BootParts } from "./boot-parts.ts";
import { cpioArchive } from "./cpio.ts";

/** In the order in which they need each other. */
const DISK_MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_modern_dev",
  "virtio_pci_legacy_dev",
  "virtio_pci",
  "virtio_blk",
];

const HEAD = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /sys /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
`;

/**
 * What the kernel is told: its console is the serial port, a panic ends the machine, and its timer ticks by itself. One that is set for each
 * moment by itself gets lost now and then under QEMU's emulation on a busy machine: what sleeps sleeps until another interrupt comes then.
 */
export const KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 quiet no_timer_check nohz=off highres=off";

/** QEMU's arguments for a machine that boots without a loader. */
export function bootArguments(kernel: string, initramfs: string): string[] {
  return ["-kernel", kernel, "-initrd", initramfs, "-append", KERNEL_COMMAND_LINE];
}

/**
 * @param script what the guest does when its disk is there as /dev/vda and its console is the serial port, for busybox's shell
 * @param modules more of them, in the order in which they need each other
 * @throws {StreamdiskError} `not-found` for a module that the kernel has not
 */
export function writeInitramfs(path: string, parts: BootParts, script: string, modules: readonly string[] = []): void {
  const found = [...DISK_MODULES, ...modules].flatMap((name) => readModule(parts, name) ?? []);
  const archive = cpioArchive([
    { name: "bin" },
    { name: "bin/busybox", data: readFileSync(parts.busybox) },
    { name: "modules" },
    ...found.map(({ name, data }, index) => ({ name: `modules/${String(index).padStart(2, "0")}-${name}.ko`, data })),
    { name: "init", data: Buffer.from(HEAD + script) },
  ]);
  writeFileSync(path, archive);
}

/** @returns undefined for one that is a part of the kernel */
function readModule({ modules }: BootParts, name: string): { name: string; data: Buffer } | undefined {
  const [file] = globSync(`${modules}/kernel/drivers/**/${name}.ko{,.xz}`);
  if (file?.endsWith(".xz")) return { name, data: execFileSync("xz", ["-dc", file]) };
  if (file !== undefined) return { name, data: readFileSync(file) };
  const builtIn = join(modules, "modules.builtin");
  if (existsSync(builtIn) && readFileSync(builtIn, "utf8").includes(`/${name}.ko\n`)) return undefined;
  throw new StreamdiskError("not-found", `There is no module '${name}' in '${modules}'`);
}
