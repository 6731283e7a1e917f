/**
 * A daemon with images in a file system that turns read-only under a guest and a stream, is read-only when the daemon is started again, and
 * then is not any more. Prints what happened as a line of JSON. Started by read-only.test.ts, which has that file system mounted.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd, type NbdNode } from "../../src/nbd/index.ts";
import { peer } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

const MIB = 2 ** 20;
const SIZE = 8;
const [directory = "", mounted = ""] = process.argv.slice(2);
const isReadOnly = join(directory, "is-read-only");
const preload = pathToFileURL(join(import.meta.dirname, "../support/read-only-writes.ts")).href;
const environment = { NODE_OPTIONS: `--import=${preload}`, READ_ONLY_FILE: isReadOnly };

async function errorOf(act: Promise<unknown>): Promise<{ readonly code: string; readonly says: boolean } | undefined> {
  try {
    await act;
    return undefined;
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    return { code: error.code, says: error.message.includes("the file system is read-only") };
  }
}

async function mibReads(guest: NbdNode, at: number, byte: number): Promise<boolean> {
  const content = Buffer.alloc(MIB);
  await guest.read(at * MIB, content);
  return content.every((there) => there === byte);
}

await using daemon = new DaemonProcess(directory, ["--image-directory", mounted], environment);
const { client } = daemon;
const base = join(daemon.images, "base.raw");
writeFileSync(base, Buffer.alloc(SIZE * MIB, 5));
await daemon.start();
const over = { backing: base, backingFormat: "raw" } as const;
const { uri = "" } = await client.call("createDisk", { body: { name: "vm", ...over } });
peer("qemu-img", "create", "-q", "-f", "qcow2", join(daemon.images, "well.qcow2"), "1M");
const well = await client.call("createDisk", {
  body: { name: "well", image: join(daemon.images, "well.qcow2"), adopt: true },
});
const vm = client.disk("vm");
let guest = await connectNbd(uri);
await guest.write(0, Buffer.alloc(MIB, 9));
await guest.flush();
await guest.write(MIB, Buffer.alloc(MIB, 8));
// Slow enough to be under way when that happens, however slow the machine is.
await vm.stream({ speed: MIB / 8 });
while ((await vm.streamInfo()).copiedBytes === 0) await sleep(20);

writeFileSync(isReadOnly, "");
const write = await errorOf(guest.write(7 * MIB, Buffer.alloc(MIB, 7)));
const flush = await errorOf(guest.flush());
const reads = [await mibReads(guest, 0, 9), await mibReads(guest, 1, 8), await mibReads(guest, 7, 5)];
const failed = async () => (await client.call("listJobs", {})).jobs.find(({ state }) => state === "failed");
while ((await failed()) === undefined) await sleep(20);
const reason = (await failed())?.reason;
await guest.close().catch(() => {});
await daemon.stop();

peer("mount", "-o", "remount,ro", mounted);
rmSync(isReadOnly);
await daemon.start();
// A disk that takes its time is opened after the start.
const openingFailed = async () => (await vm.info()).error;
while ((await openingFailed()) === undefined) await sleep(20);
const error = await openingFailed();
const create = await errorOf(client.call("createDisk", { body: { name: "new", ...over } }));
await using neighbour = await connectNbd(well.uri ?? "");
await neighbour.write(0, Buffer.alloc(4096, 1));

peer("mount", "-o", "remount,rw", mounted);
while ((await vm.info()).error !== undefined) await sleep(50);
guest = await connectNbd(uri);
const kept = [await mibReads(guest, 0, 9), await mibReads(guest, 1, 8), await mibReads(guest, 7, 5)];
await vm.stream();
while ((await vm.info()).hydrated !== true) await sleep(50);
await guest.close();
await daemon.stop();
peer("qemu-img", "check", "-q", join(mounted, "vm.qcow2"));
const stream = { code: reason?.code, says: reason?.message.includes("the file system is read-only") };
const open = { code: error?.code, message: error?.message };
process.stdout.write(`${JSON.stringify({ write, flush, reads, stream, open, create, kept })}\n`);
