/**
 * kill -9 while the disk of a deployed machine is filled: of its source, of the daemon, of QEMU, when so much of it is there. The guest has a
 * file system on its disk and writes files throughout. All goes on, what was written durably is there, the file system is whole, and no more
 * is fetched again than docs/durability.md says.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Deployment } from "../../src/api/index.ts";
import { machineArguments } from "../../src/cli/demo/machine.ts";
import { noise } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { GuestConsole, logLength } from "../support/guest/console.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { directoryWithMachines } from "../support/machine.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const SIZE = 40 * MIB;
const FILES = 24;
/** While the guest boots. */
const SLOW = MIB / 4;
const SPEED = 2 * MIB;
const OUTAGE_MS = 700;
/**
 * What may be fetched a second time: what a stream has fetched since mappings were last handed to the kernel (2 s), once more for a machine that
 * is late, and its window.
 */
const REFETCHED = 2 * 2 * SPEED + 2 * MIB;

interface Cell {
  readonly owner: "qemu" | "engine";
  readonly victim: "source" | "daemon" | "QEMU";
  readonly percent: number;
}

const CELLS: readonly Cell[] = (["qemu", "engine"] as const).flatMap((owner) =>
  (["source", "daemon", "QEMU"] as const).flatMap((victim) =>
    [10, 50, 90].map((percent) => ({ owner, victim, percent })),
  ),
);

/** An image with a file system, half of it noise. */
function makeImage(directory: string): string {
  const [content, image] = [join(directory, "content"), join(directory, "base.raw")];
  mkdirSync(content);
  const sums = Array.from({ length: FILES }, (_, at) => {
    const bytes = noise(MIB, at + 1);
    writeFileSync(join(content, `file-${at}`), bytes);
    return `${createHash("md5").update(bytes).digest("hex")}  file-${at}\n`;
  });
  writeFileSync(join(content, "sums"), sums.join(""));
  execFileSync("/sbin/mkfs.ext4", ["-q", "-d", content, image, `${SIZE / KIB}k`]);
  return image;
}

/** Files that a guest writes, again and again, and what each has. */
class WrittenFiles {
  readonly #sums = new Map<string, string>();
  #writes = 0;

  async write(guest: GuestConsole): Promise<void> {
    const write = this.#writes++;
    const name = `new-${write % 20}`;
    const kibibytes = 1 + ((write * 37) % 150);
    assert.equal(await guest.does(`write ${name} ${kibibytes} write ${write}`), "written");
    const content = Buffer.alloc(kibibytes * KIB, `write ${write}\n`);
    this.#sums.set(name, createHash("md5").update(content).digest("hex"));
  }

  async check(guest: GuestConsole): Promise<void> {
    for (const [name, sum] of this.#sums) assert.equal(await guest.does(`sum ${name}`), sum, name);
  }

  get writes(): number {
    return this.#writes;
  }
}

async function run(t: TestContext, { owner, victim, percent }: Cell): Promise<void> {
  const directory = directoryWithMachines(t, "state/machines", () => daemon[Symbol.asyncDispose]());
  const log = join(directory, "source.log");
  const image = makeImage(directory);
  const data = statSync(image).blocks * 512;
  await using source = await startNbdkit(["--filter=log", "file", image, `logfile=${log}`, "logappend=true"]);
  const daemon = new DaemonProcess(directory, ["--allow", source.uri, "--accelerator", "tcg"]);
  await daemon.start();
  const { client } = daemon;
  const { kernel, initramfs } = makeBootFiles(directory, join(import.meta.dirname, "../support/guest/files.sh"));
  const machine = machineArguments(kernel, initramfs);
  const order = { name: "vm", image: source.uri, imageFormat: "raw" as const, owner, speed: SLOW, machine };
  const { overlay, disk } = await client.call("deploy", { body: order });
  const ofDomain = { params: { domain: "vm" } };
  const shown = (): Promise<Deployment> => client.call("getDeployment", { params: { deployment: "vm" } });
  const { machine: own } = await client.call("getDomain", ofDomain);
  const { console, consoleLog } = own!;
  let { guest, diskBytes } = await GuestConsole.boot(console, consoleLog);
  t.after(() => guest[Symbol.dispose]());
  assert.equal(diskBytes, SIZE);
  const files = new WrittenFiles();
  for (let i = 0; i < 3; i++) await files.write(guest);

  await client.call("setSpeed", { params: { disk }, body: { speed: SPEED } });
  const missing = async (): Promise<number> => {
    const { stream } = await shown();
    assert.equal(stream?.state, "running");
    return stream.missingBytes;
  };
  const atFirst = await missing();
  let left = atFirst;
  for (; left > (atFirst * (100 - percent)) / 100; left = await missing()) await files.write(guest);

  if (victim === "source") {
    await source.stop("SIGKILL");
    await sleep(OUTAGE_MS);
    await source.start();
  } else if (victim === "daemon") {
    await daemon.stop("SIGKILL");
    await daemon.start();
  } else {
    process.kill(own!.pid!, "SIGKILL");
    while ((await client.call("getDomain", ofDomain)).state !== "stopped") await sleep(50);
    guest[Symbol.dispose]();
    const length = logLength(consoleLog);
    await client.call("startDomain", { ...ofDomain, body: {} });
    ({ guest } = await GuestConsole.boot(console, consoleLog, length));
    await files.check(guest);
  }
  while (!(await shown()).hydrated) await files.write(guest);
  const { events } = await client.call("listEvents", { query: { limit: 1000 } });
  assert.ok(!events.some(({ type }) => type === "stream-fallback"));

  await source.stop();
  rmSync(image);
  assert.equal(await guest.does("image"), "0 wrong");
  await files.check(guest);
  assert.equal(await guest.does("errors"), "0");
  assert.equal(await guest.does("off"), "off");
  while ((await client.call("getDomain", ofDomain)).state !== "stopped") await sleep(50);
  await daemon.stop();

  const { status, corruptions, leaks } = qemuCheckStatus(overlay, "qcow2");
  // After kill -9 clusters may be leaked, and nothing else.
  assert.deepEqual([status, corruptions ?? 0], [leaks === undefined ? 0 : 3, 0]);
  const raw = join(directory, "end.raw");
  qemuImg("convert", "-f", "qcow2", "-O", "raw", overlay, raw);
  execFileSync("/sbin/e2fsck", ["-fn", raw], { stdio: "pipe" });
  const fetched = bytesRead(log);
  t.diagnostic(
    `killed with ${left} of ${atFirst} bytes missing; ${fetched} bytes fetched of ${data}; ${files.writes} files written`,
  );
  assert.ok(fetched <= data + REFETCHED, `${fetched} bytes were fetched of ${data}`);
}

/** What nbdkit's log says was read (nbdkit-log-filter(1)). */
function bytesRead(log: string): number {
  const reads = readFileSync(log, "latin1").matchAll(/ Read id=\d+ offset=\S+ count=(0x[0-9a-f]+)/g);
  return [...reads].reduce((sum, [, count]) => sum + Number(count), 0);
}

for (const cell of sample("deploy-kill", CELLS, 1)) {
  const { owner, victim, percent } = cell;
  const whose = owner === "qemu" ? "QEMU's" : "the daemon's";
  test(`kill -9 of the ${victim} at ${percent} % of a disk of ${whose}`, (t) => run(t, cell));
}
