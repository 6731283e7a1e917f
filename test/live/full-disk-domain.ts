/**
 * A guest whose QEMU has its overlay in a file system without much room: it is paused with that reason when it is full, and goes on when room was
 * made and somebody lets it. Prints what happened as a line of JSON. Started by full-disk.test.ts, which has that file system mounted.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DaemonProcess } from "../support/daemon.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { qemuImg } from "../support/qemu.ts";

const MIB = 2 ** 20;
const [directory = "", small = ""] = process.argv.slice(2);

const image = join(small, "vm.qcow2");
qemuImg("create", "-q", "-f", "qcow2", image, String(8 * MIB));
const ballast = join(small, "ballast");
writeFileSync(ballast, Buffer.alloc(8 * MIB));
await using daemon = new DaemonProcess(directory);
await daemon.start();
const qmp = join(directory, "qmp");
const node = { driver: "qcow2", "node-name": "top", file: { driver: "file", filename: image } };
const { guest } = await Guest.boot(makeBootFiles(directory), [
  ...["-qmp", `unix:${qmp},server=on,wait=off`, "-blockdev", JSON.stringify(node)],
  ...["-device", "virtio-blk-pci,id=virtio-disk0,drive=top,rerror=stop,werror=stop"],
]);
await using _guest = guest;
const { client } = daemon;
const params = { domain: "vm" };
await client.call("addDomain", { body: { name: "vm", qmp } });
const write = guest.does(`write 0 ${(6 * MIB) / 512} full`);
write.catch(() => {});
let found = await client.call("getDomain", { params });
while (found.pause === undefined) {
  await sleep(50);
  found = await client.call("getDomain", { params });
}
const { code, disk, byUser } = found.pause;
// Nobody lets it go on as long as there is no room.
await sleep(2000);
const { state } = await client.call("getDomain", { params });
rmSync(ballast);
await client.call("resumeDomain", { params });
const written = await write;
await guest.powerOff();
await daemon.stop();
process.stdout.write(JSON.stringify({ code, disk, byUser, state, written, errors: /I\/O error/.test(guest.log) }));
