/** What the guest of the tests boots: Debian's cloud kernel, and an initramfs of a static busybox, six modules and `init.sh`. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, globSync, mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

const MODULES = "virtio,virtio_ring,virtio_pci,virtio_pci_modern_dev,virtio_pci_legacy_dev,virtio_blk";

export interface BootFiles {
  readonly kernel: string;
  readonly initramfs: string;
}

/** @param directory where it is made */
export function makeBootFiles(directory: string): BootFiles {
  const kernel = globSync("/boot/vmlinuz-*-cloud-amd64").sort().at(-1);
  assert(kernel !== undefined, "Debian's package linux-image-cloud-amd64 is missing");
  const version = basename(kernel).replace("vmlinuz-", "");
  const root = join(directory, "root");
  mkdirSync(join(root, "bin"), { recursive: true });
  mkdirSync(join(root, "modules"));
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  copyFileSync(join(import.meta.dirname, "init.sh"), join(root, "init"));
  for (const file of ["init", "bin/busybox"]) chmodSync(join(root, file), 0o755);
  const modules = globSync(`/lib/modules/${version}/kernel/drivers/{virtio,block}/{${MODULES}}.ko`);
  assert.equal(modules.length, MODULES.split(",").length, `modules of ${version}: ${modules.join(", ")}`);
  for (const module of modules) copyFileSync(module, join(root, "modules", basename(module)));
  const names = ["init", "bin", "bin/busybox", "modules", ...modules.map((module) => `modules/${basename(module)}`)];
  const { status, stdout, stderr } = spawnSync("busybox", ["cpio", "-o", "-H", "newc"], {
    cwd: root,
    input: `${names.join("\n")}\n`,
    maxBuffer: 64 * 1024 * 1024,
  });
  assert.equal(status, 0, `${stderr}`);
  const initramfs = join(directory, "initramfs");
  writeFileSync(initramfs, stdout);
  return { kernel, initramfs };
}
