import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../../../test/support/cli.ts";
import { writeInitramfs } from "./initramfs.ts";

const PLAIN = ["virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_blk"];

test("modules are taken as they are, unpacked, or left to the kernel that has them, in the order of their needs", (t) => {
  const directory = temporaryDirectory(t);
  const drivers = join(directory, "kernel/drivers/any");
  mkdirSync(drivers, { recursive: true });
  const busybox = join(directory, "busybox");
  for (const name of PLAIN) writeFileSync(join(drivers, `${name}.ko`), name);
  writeFileSync(join(drivers, "virtio.ko"), "packed");
  assert.equal(spawnSync("xz", [join(drivers, "virtio.ko")]).status, 0);
  writeFileSync(join(directory, "modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n");
  writeFileSync(busybox, "busybox");

  const path = join(directory, "initramfs");
  const parts = { kernel: "", modules: directory, busybox };
  writeInitramfs(path, parts, "script");
  const unpacked = (name: string): string =>
    spawnSync("busybox", ["cpio", "-i", "--to-stdout", "-F", path, name], { encoding: "utf8" }).stdout;
  const { stdout } = spawnSync("busybox", ["cpio", "-t", "-F", path], { encoding: "utf8" });
  const names = stdout.split("\n").filter((name) => name.startsWith("modules/"));
  assert.deepEqual(names, [
    "modules/00-virtio_ring.ko",
    "modules/01-virtio.ko",
    "modules/02-virtio_pci_modern_dev.ko",
    "modules/03-virtio_pci_legacy_dev.ko",
    "modules/04-virtio_blk.ko",
  ]);
  assert.deepEqual(["modules/01-virtio.ko", "modules/04-virtio_blk.ko"].map(unpacked), ["packed", "virtio_blk"]);
  assert.match(unpacked("init"), /^#!\/bin\/busybox sh\n.*script$/s);
  assert.throws(() => writeInitramfs(path, parts, "", ["button"]), { code: "not-found", message: /module 'button'/ });
});
