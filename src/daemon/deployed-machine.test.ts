import assert from "node:assert/strict";
import { test } from "node:test";
import { imageDisk, machineXml } from "../../test/support/machine.ts";
import { aDeployment } from "../../test/support/store-conformance.ts";
import { deployedMachine } from "./deployed-machine.ts";

const OURS = { kind: "image", path: "/images/vm1.qcow2", format: "qcow2" };
const deployment = aDeployment("vm1");

function sourcesOf(xml: string, uri?: string): (readonly [string, unknown])[] {
  const { name, disks } = deployedMachine({ ...deployment, machine: { xml } }, uri);
  assert.equal(name, "vm1", "whatever the XML calls it");
  return disks.map(({ target, source }) => [target, source] as const);
}

test("a machine of which nothing is said has the disk, and what QEMU is told beside", () => {
  const { disks, extraArguments } = deployedMachine({ ...deployment, machine: { args: ["-nic", "user"] } });
  assert.deepEqual(disks, [{ target: "vda", alias: "virtio-disk0", readOnly: false, source: OURS }]);
  assert.deepEqual(extraArguments, ["-nic", "user"]);
});

test("of an XML the disk vda is the one that was made, and others stay what they are", () => {
  const other = { kind: "image", path: "/images/data.raw", format: "raw" };
  assert.deepEqual(sourcesOf(machineXml({ name: "x" })), [["vda", OURS]]);
  const data = imageDisk("/images/data.raw", "raw", "vdb");
  const two = machineXml({ name: "x", devices: data + imageDisk("/images/template.qcow2", "qcow2") });
  assert.deepEqual(sourcesOf(two), [
    ["vda", OURS],
    ["vdb", other],
  ]);
  const uri = "nbd+unix:///?socket=/run/vm1-vda.sock";
  assert.deepEqual(sourcesOf(machineXml({ name: "x", devices: data }), uri), [
    ["vda", { kind: "nbd", socket: "/run/vm1-vda.sock", exportName: "" }],
    ["vdb", other],
  ]);
});

test("what the XML can't be is refused", () => {
  assert.throws(() => sourcesOf("<domain"), { code: "invalid-argument" });
});
