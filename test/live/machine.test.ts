/**
 * A real guest in a machine of the daemon's own, over a source that is far away. The daemon is killed while the overlay is filled and the guest
 * works, and finds its machine again; then the source goes, QEMU is killed, the machine is started again, and its guest powers it off. Whatever the
 * guest reads is what it wrote or what the base has.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Domain } from "../../src/api/index.ts";
import { cliOk } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { act } from "../support/guest/acts.ts";
import { GuestConsole, logLength } from "../support/guest/console.ts";
import { bootXml, makeBootFiles } from "../support/guest/initramfs.ts";
import { directoryWithMachines, exportDisk, imageDisk, machineXml } from "../support/machine.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { farOverlay } from "../support/qemu-disk.ts";
import { rng, sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const SPEED = 4 * MIB;
const AWAY_MS = 20;
const CELLS = (["qcow2", "qed"] as const).flatMap((format) => [
  { format, owner: "qemu" } as const,
  { format, owner: "engine" } as const,
]);

async function run(t: TestContext, { format, owner }: (typeof CELLS)[number]): Promise<void> {
  const random = rng(`machine ${format} ${owner}`);
  let daemon: DaemonProcess | undefined;
  const directory = directoryWithMachines(t, "state/machines", async () => daemon?.[Symbol.asyncDispose]());
  const images = join(directory, "images");
  mkdirSync(images);
  const { source, image, expected } = await farOverlay(images, format, SIZE, AWAY_MS);
  await using _source = source;
  const model = readFileSync(expected);
  const boot = makeBootFiles(images);
  daemon = new DaemonProcess(directory, ["--allow", source.uri, "--allow", dirname(boot.kernel)]);
  const { client, env } = daemon;
  await daemon.start();
  const xml = join(directory, "vm.xml");
  const ownDisk = owner === "qemu" ? imageDisk(image, format) : exportDisk(join(daemon.state, "sockets", "one.sock"));
  writeFileSync(xml, machineXml({ name: "vm", os: bootXml(boot), devices: ownDisk }));
  if (owner === "engine") await client.call("createDisk", { body: { name: "one", adopt: true, image, format } });
  const started = JSON.parse((await cliOk(["domain", "start", "--xml", xml, "--json"], { env })).stdout) as Domain;
  const { console, consoleLog } = started.machine!;
  let { guest, diskBytes } = await GuestConsole.boot(console, consoleLog);
  t.after(() => guest[Symbol.dispose]());
  assert.equal(diskBytes, SIZE);

  let acts = 0;
  const doSome = async (many: number): Promise<void> => {
    for (let i = 0; i < many; i++) await act(guest, model, random, ++acts);
  };
  const disk = { params: { disk: owner === "qemu" ? "vm:vda" : "one" } };
  const shown = () => client.call("getDomain", { params: { domain: "vm" } });
  const stopped = async (): Promise<Domain> => {
    for (;;) {
      const now = await shown();
      if (now.state === "stopped") return now;
      await sleep(100);
    }
  };

  await doSome(4);
  await client.call("startStream", { ...disk, body: { speed: SPEED } });
  await doSome(2);
  await daemon.stop("SIGKILL");
  const before = acts;
  // A disk that QEMU owns needs no daemon; requests to another wait for it.
  if (owner === "qemu") await doSome(3);
  await daemon.start();
  const found = await shown();
  assert.deepEqual([found.state, found.machine?.pid], ["running", started.machine?.pid], "the machine is found again");
  for (let state = ""; state !== "completed"; { state } = await client.call("streamInfo", disk)) await doSome(1);
  const meanwhile = acts - before;
  const { events } = await client.call("listEvents", { query: { limit: 1000 } });
  assert.ok(!events.some(({ type }) => type === "stream-fallback"), "QEMU was made to fill, and not to stream");
  await source.stop();
  rmSync(join(images, "base.raw"));
  await doSome(4);

  assert.equal(await guest.does("flush"), "flushed");
  process.kill(found.machine!.pid!, "SIGKILL");
  assert.equal((await stopped()).machine?.end?.reason, "killed by signal 9 (SIGKILL)");
  guest[Symbol.dispose]();
  const length = logLength(consoleLog);
  const again = await cliOk(["domain", "start", "vm"], { env });
  assert.match(again.stdout, /^state: running$/m);
  ({ guest, diskBytes } = await GuestConsole.boot(console, consoleLog, length));
  assert.equal(diskBytes, SIZE);
  await doSome(5);
  assert.equal(await guest.does("off"), "off");
  assert.equal((await stopped()).machine?.end?.reason, "guest shut down");
  const told = (await client.call("listEvents", { query: { limit: 1000 } })).events.map(({ message }) => message);
  assert.ok(told.includes("The domain 'vm' has ended: guest shut down"), told.join("\n"));

  await daemon.stop();
  writeFileSync(expected, model);
  const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
  qemuCheck(image, format);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  t.diagnostic(
    `${acts} acts of the guest, ${meanwhile} of them since the daemon was killed and until its disk stood alone`,
  );
}

for (const cell of sample("machine", CELLS, 1)) {
  const whose = `${cell.format} of ${cell.owner === "qemu" ? "QEMU's" : "the daemon's"}`;
  test(`a machine on ${whose}, over kill -9 of the daemon and of QEMU, until its guest powers it off`, (t) =>
    run(t, cell));
}
