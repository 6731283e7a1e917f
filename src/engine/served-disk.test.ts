import assert from "node:assert/strict";
import { test } from "node:test";
import { ServedDisk } from "./served-disk.ts";
import type { DiskPlace } from "./threads.ts";

/** A handle to a disk that is nowhere. */
function handle(uri: string, exportName = ""): ServedDisk {
  const listen = uri.includes("+unix") ? { path: "/run/a,b.sock" } : { host: "127.0.0.1", port: 0 };
  return new ServedDisk({} as DiskPlace, {
    uri,
    image: "vm.qcow2",
    listen,
    exportName,
    readOnly: false,
    nodeName: "n",
  });
}

test("QEMU is given a node, and a device unless that is not wanted", () => {
  const disk = handle("nbd://127.0.0.1:9/");
  const node = ["-blockdev", disk.qemuBlockdev()];
  assert.deepEqual(disk.qemuArgs({ device: false }), node);
  assert.deepEqual(disk.qemuArgs(), [...node, "-device", "virtio-blk-pci,drive=n,rerror=stop,werror=stop"]);
});
