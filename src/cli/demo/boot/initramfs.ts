/** The first file system of a small guest: a static busybox, the modules that its disk needs, and a script that is all it runs. */
import { globSync, readFileSync, writeFileSync } from "node:fs";
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

/** What the kernel is told: its console is the serial port, and a panic ends the machine. */
export const KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 quiet";

/**
 * @param script what the guest does when its disk is there as /dev/vda and its console is the serial port, for busybox's shell
 * @param modules more of them, in the order in which they need each other
 */
export function writeInitramfs(path: string, parts: BootParts, script: string, modules: readonly string[] = []): void {
  const files = [...DISK_MODULES, ...modules].map((name, index) => {
    const [file] = globSync(`${parts.modules}/kernel/drivers/**/${name}.ko`);
    if (file === undefined)
      throw new StreamdiskError("not-found", `There is no module '${name}' in '${parts.modules}'`);
    return { name: `modules/${String(index).padStart(2, "0")}-${name}.ko`, data: readFileSync(file) };
  });
  const archive = cpioArchive([
    { name: "bin" },
    { name: "bin/busybox", data: readFileSync(parts.busybox) },
    { name: "modules" },
    ...files,
    { name: "init", data: Buffer.from(HEAD + script) },
  ]);
  writeFileSync(path, archive);
}
