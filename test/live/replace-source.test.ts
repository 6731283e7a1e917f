/**
 * The source of a real guest's disk dies in mid-stream, and the guest reads what is missing: its machine stops (`rerror=stop`), or waits with
 * its NBD client. Another server of the same comes up elsewhere, the disk is put over that, and the guest goes on as if nothing had been.
 */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { RunningDomain } from "../../src/domain/index.ts";
import { parseNbdUri } from "../../src/nbd/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { act } from "../support/guest/acts.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { describedAs, farOverlay } from "../support/qemu-disk.ts";
import { rng, sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 24 * MIB;

/** Whether QEMU's client waits for its server, and whether that dies or says nothing any more. */
const CELLS = [
  { format: "qcow2", reconnect: 0, death: "kill" },
  { format: "qed", reconnect: 0, death: "kill" },
  { format: "qcow2", reconnect: 600, death: "kill" },
  { format: "qcow2", reconnect: 0, death: "freeze" },
] as const;

async function run(t: TestContext, { format, reconnect, death }: (typeof CELLS)[number]): Promise<void> {
  const random = rng(`replace ${format} ${reconnect} ${death}`);
  const directory = temporaryDirectory(t);
  const { source, image, expected } = await farOverlay(directory, format, SIZE, 0);
  await using _source = source;
  const model = readFileSync(expected);
  const address = parseNbdUri(source.uri);
  assert.ok(address.unix);
  const server = { type: "unix", path: address.socket };
  const backing = { driver: "nbd", "node-name": "far", "read-only": true, server, "reconnect-delay": reconnect };
  const top = { driver: format, "node-name": "top", file: { driver: "file", filename: image }, backing: "far" };
  const nodes = [backing, top].flatMap((node) => ["-blockdev", JSON.stringify(node)]);
  const qmp = join(directory, "qmp");
  const device = "virtio-blk-pci,id=virtio-disk0,drive=top,rerror=stop,werror=stop";
  const args = ["-qmp", `unix:${qmp},server=on,wait=off`, ...nodes, "-device", device];
  const booted = await Guest.boot(makeBootFiles(directory), args);
  await using guest = booted.guest;
  await using domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });

  let acts = 0;
  for (; acts < 5; acts++) await act(guest, model, random, acts);
  const stream = await domain.stream("vda", { speed: 8 * MIB });
  const running = stream.run();
  running.catch(() => {});
  while (stream.progress.copiedBytes < 2 * MIB) await sleep(20);
  stream.cancel();
  await running.catch(() => {});

  if (death === "kill") await source.stop();
  else await source.freeze();
  // The last MiB but one is noise that nobody has fetched.
  const missing = SIZE - 2 * MIB;
  const read = guest.does(`read ${missing / 512} 64`);
  const answered = read.then(() => true);
  if (reconnect === 0 && death === "kill") {
    while ((await domain.qmp.execute("query-status", {})) !== "io-error") await sleep(100);
  } else {
    assert.equal(await Promise.race([answered, sleep(1000).then(() => false)]), false, "the guest waits");
  }

  const moved = await startNbdkit(["file", join(directory, "base.raw")]);
  t.after(() => moved[Symbol.asyncDispose]());
  const { compared } = await domain.replaceSource("vda", { backing: moved.uri, backingFormat: "raw" });
  assert.ok(compared > 0);
  assert.match(await read, /^[0-9a-f]{32} 64\+0 records in/, "the guest has read it, and seen no error");
  for (; acts < 15; acts++) await act(guest, model, random, acts);
  const rest = await domain.stream("vda");
  await rest.run();
  assert.equal(rest.method, "fill");
  source.thaw();
  await Promise.all([source.stop(), moved.stop()]);
  rmSync(join(directory, "base.raw"));
  for (; acts < 20; acts++) await act(guest, model, random, acts);
  await guest.powerOff();
  writeFileSync(expected, model);
  qemuCheck(image, format);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
}

for (const cell of sample("replace source of a guest", CELLS, 1)) {
  const { format, reconnect, death } = cell;
  const how = death === "freeze" ? "hangs" : reconnect === 0 ? "dies" : "dies, and is waited for";
  test(`a real guest on ${format} goes on over another source when the first one ${how}`, (t) => run(t, cell));
}
