/**
 * A daemon whose images lie in a file system without much room, a guest that writes until there is none, and a stream that is waited for
 * after room was made. Prints what happened as a line of JSON. Started by full-disk.test.ts, which has that file system mounted.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { DaemonProcess } from "../support/daemon.ts";

const MIB = 2 ** 20;
const SIZE = 8;
const [directory = "", small = ""] = process.argv.slice(2);

await using daemon = new DaemonProcess(directory, ["--image-directory", small]);
const base = join(directory, "images", "base.raw");
writeFileSync(base, Buffer.alloc(SIZE * MIB, 5));
const ballast = join(small, "ballast");
writeFileSync(ballast, Buffer.alloc(8 * MIB));
await daemon.start();
const body = { name: "vm", backing: base, backingFormat: "raw" } as const;
const { uri = "" } = await daemon.client.call("createDisk", { body });
await using guest = await connectNbd(uri);
let written = 0;
let failure: StreamdiskError | undefined;
while (failure === undefined) {
  try {
    await guest.write(written * MIB, Buffer.alloc(MIB, 9));
    written++;
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    failure = error;
  }
}
const vm = daemon.client.disk("vm");
await vm.stream();
while ((await vm.streamInfo()).state !== "waiting") await sleep(20);
const { reason } = await vm.streamInfo();
rmSync(ballast);
while ((await vm.streamInfo()).state !== "completed") await sleep(50);
const content = Buffer.alloc(SIZE * MIB);
await guest.read(0, content);
const kept = content.subarray(0, written * MIB).every((byte) => byte === 9);
await guest.flush();
process.stdout.write(`${JSON.stringify({ written, kept, guest: failure.code, stream: reason?.code })}\n`);
await daemon.stop();
