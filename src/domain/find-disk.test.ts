import assert from "node:assert/strict";
import { test } from "node:test";
import type { DiskDescription, DomainDescription } from "./description.ts";
import { findDisk } from "./find-disk.ts";

function disk(target: string, alias?: string, path?: string): DiskDescription {
  return {
    ...{ target, device: "disk", readOnly: false, backing: [] },
    ...(alias !== undefined && { alias }),
    ...(path !== undefined && { source: { kind: "file", path } as const }),
  };
}

const domain: DomainDescription = {
  name: "vm",
  disks: [disk("vda", "virtio-disk0", "/a.qcow2"), disk("vdb", "vdc"), disk("vdc"), disk("vdd", "x", "/a.qcow2")],
};

test("a disk has three names", () => {
  for (const name of ["vda", "virtio-disk0"]) assert.equal(findDisk(domain, name).target, "vda");
  assert.equal(findDisk({ ...domain, disks: domain.disks.slice(0, 3) }, "/a.qcow2").target, "vda");
});

test("QEMU's name of a drive is refused with the alias", () => {
  const message = "'drive-virtio-disk0' is QEMU's own name of a drive: write 'vm:virtio-disk0' or 'vm:vda'";
  assert.throws(() => findDisk(domain, "drive-virtio-disk0"), { code: "invalid-argument", message });
});

test("a name that no disk has is answered with those that there are", () => {
  const message = "The domain 'vm' has no disk 'vdx': it has vda (virtio-disk0), vdb (vdc), vdc, vdd (x)";
  assert.throws(() => findDisk(domain, "vdx"), { code: "not-found", message });
  assert.throws(() => findDisk(domain, "drive-nothing"), { code: "not-found" });
  assert.throws(() => findDisk({ name: "vm", disks: [] }, "vda"), { message: /it has no disks$/ });
});

test("a name of two disks is answered with both", () => {
  const message = "'vm:vdc' is ambiguous: it is the alias of 'vdb' and the target of 'vdc'. Write 'vm:vdb' or 'vm:vdc'";
  assert.throws(() => findDisk(domain, "vdc"), { code: "invalid-argument", message });
  assert.throws(() => findDisk(domain, "/a.qcow2"), { message: /the image of 'vda' and the image of 'vdd'/ });
});
