/**
 * Real guests that are deployed from an image far away: they read and write while their disks are filled, live on without daemon and
 * source, are powered off, and boot again.
 */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { machineArguments } from "../../src/cli/demo/machine.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { act } from "../support/guest/acts.ts";
import { GuestConsole, logLength } from "../support/guest/console.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { directoryWithMachines } from "../support/machine.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { halfNoise } from "../support/qemu-disk.ts";
import { rng, sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 24 * MIB;
/** While the guest boots, however long that takes. */
const SLOW = MIB / 4;
const SPEED = 4 * MIB;

interface Cell {
  readonly owner: "qemu" | "engine";
  readonly format: "qcow2" | "qed";
  readonly delay: number;
}

const CELLS: readonly Cell[] = (["qemu", "engine"] as const).flatMap((owner) =>
  (["qcow2", "qed"] as const).flatMap((format) => [0, 20, 50].map((delay) => ({ owner, format, delay }))),
);

async function run(t: TestContext, { owner, format, delay }: Cell): Promise<void> {
  const random = rng(`deploy ${owner} ${format} ${delay}`);
  const directory = directoryWithMachines(t, "state/machines", () => daemon[Symbol.asyncDispose]());
  const base = join(directory, "base.raw");
  const model = halfNoise(SIZE);
  writeFileSync(base, model);
  await using source = await startNbdkit(["--filter=delay", "file", base, `rdelay=${delay}ms`]);
  const daemon = new DaemonProcess(directory, ["--allow", source.uri, "--accelerator", "tcg"]);
  await daemon.start();
  const { client } = daemon;
  const { kernel, initramfs } = makeBootFiles(directory);
  const machine = machineArguments(kernel, initramfs);
  const order = { name: "vm1", image: source.uri, imageFormat: "raw" as const, format, owner, speed: SLOW, machine };
  const { overlay, disk, uri, steps } = await client.call("deploy", { body: order });
  const show = () => client.call("getDeployment", { params: { deployment: "vm1" } });
  const ofDomain = { params: { domain: "vm1" } };
  const { machine: own } = await client.call("getDomain", ofDomain);
  assert.ok(own !== undefined);
  let acts = 0;
  const doSome = async (guest: GuestConsole, many: number) => {
    for (let i = 0; i < many; i++) await act(guest, model, random, ++acts);
  };
  {
    const booted = await GuestConsole.boot(own.console, own.consoleLog);
    using guest = booted.guest;
    assert.equal(booted.diskBytes, SIZE);
    const atBoot = await show();
    t.diagnostic(`steps: ${steps.map(({ name, ms }) => `${name} ${ms} ms`).join(", ")}`);
    const missing = atBoot.stream?.missingBytes ?? 0;
    assert.ok(missing > SIZE / 4, `${missing} bytes are missing`);
    await doSome(guest, 10);
    await client.call("setSpeed", { params: { disk }, body: { speed: SPEED } });
    let during = 10;
    for (; !(await show()).hydrated; during++) await doSome(guest, 1);
    t.diagnostic(`${during} acts of the guest while its disk was filled; missing when it had booted: ${missing}`);
    const { events } = await client.call("listEvents", { query: { limit: 1000 } });
    assert.ok(!events.some(({ type }) => type === "stream-fallback"));
    while ((await client.call("listExports", {})).exports.length > 0) await sleep(50);
    await source.stop();
    rmSync(base);
    // A disk of the daemon's needs that; its QEMU connects again.
    await daemon.stop("SIGKILL");
    if (owner === "qemu") await doSome(guest, 10);
    await daemon.start();
    await doSome(guest, 5);
    assert.equal(await guest.does("off"), "off");
  }
  const stopped = async () => (await client.call("getDomain", ofDomain)).state === "stopped";
  while (!(await stopped())) await sleep(50);
  const expected = join(directory, "expected.raw");
  const compare = () => {
    writeFileSync(expected, model);
    if (owner === "engine") qemuImg("compare", "-q", "-f", "raw", "-F", "raw", uri ?? "", expected);
    else {
      qemuCheck(overlay, format);
      qemuImg("compare", "-q", "-f", format, "-F", "raw", overlay, expected);
    }
  };
  compare();
  const info = JSON.parse(qemuImg("info", "-U", "-f", format, "--output=json", overlay)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);

  const before = logLength(own.consoleLog);
  await client.call("startDomain", { ...ofDomain, body: {} });
  {
    using guest = (await GuestConsole.boot(own.console, own.consoleLog, before)).guest;
    await doSome(guest, 8);
    assert.equal(await guest.does("off"), "off");
  }
  while (!(await stopped())) await sleep(50);
  compare();
  assert.equal((await show()).disk, disk);
  await client.call("undeploy", { params: { deployment: "vm1" }, query: {} });
  assert.deepEqual((await client.call("listDomains", {})).domains, []);
  assert.throws(() => readFileSync(overlay), { code: "ENOENT" });
}

for (const cell of sample("deploy", CELLS, 1)) {
  const { owner, format, delay } = cell;
  test(`a guest is deployed on ${format} that ${owner === "qemu" ? "its QEMU" : "the daemon"} owns, ${delay} ms away`, (t) =>
    run(t, cell));
}
