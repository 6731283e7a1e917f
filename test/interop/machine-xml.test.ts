/** What libvirt itself makes of a machine's XML is read as the same machine: what it adds by itself is passed over. */
import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseMachineXml } from "../../src/domain/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { Libvirtd } from "../support/libvirtd.ts";
import { imageDisk, machineXml } from "../support/machine.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";

for (const type of sample("machine XML", ["pc", "q35"] as const, 1)) {
  test(`a machine of the type ${type}, as libvirt has it`, async (t) => {
    const directory = temporaryDirectory(t);
    chmodSync(directory, 0o755);
    const image = join(directory, "a.qcow2");
    qemuImg("create", "-q", "-f", "qcow2", image, "1M");
    await using libvirtd = await Libvirtd.start();
    libvirtd.give(image);
    const devices = `${imageDisk(image, "qcow2")}<serial type='pty'/>`;
    const xml = machineXml({ name: "web", devices, os: "<boot dev='hd'/>" }).replace(
      "<type arch='x86_64'>",
      `<type arch='x86_64' machine='${type}'>`,
    );
    const file = join(directory, "web.xml");
    writeFileSync(file, xml);
    await libvirtd.virsh("define", file);
    const expected = parseMachineXml(xml);
    const theirs = parseMachineXml(await libvirtd.virsh("dumpxml", "web", "--inactive"));
    assert.match(theirs.machine ?? "", type === "pc" ? /^pc-i440fx/ : /^pc-q35/);
    const { uuid, emulator = "", machine } = theirs;
    assert.match(emulator, /qemu-system-x86_64$/);
    assert.ok(uuid !== undefined && machine !== undefined);
    const cpu = { model: "qemu64", features: [] };
    assert.deepEqual(theirs, { ...expected, uuid, emulator, machine, cpu });

    await libvirtd.virsh("start", "web");
    const running = await libvirtd.virsh("dumpxml", "web");
    await libvirtd.virsh("destroy", "web");
    assert.deepEqual({ ...parseMachineXml(running), cpu }, theirs);
  });
}
