/**
 * kill -9 of a real daemon at random moments, under disks with clients that write and come back, streams that run, and orders that are
 * under way. Each time it is started again: every acknowledged write is there, flushed or not, every job goes on, every export is
 * served under the same address, and what was being made is whole or not there.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Disk, Event } from "../../src/client/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { below, between, type Random } from "../support/draw.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng } from "../support/seed.ts";
import { WriteModel, WritingGuest } from "../support/writing-guest.ts";

const MIB = 2 ** 20;
const SECTOR = 512;
const DISKS = pick(3, 8);
const KILLS = pick(4, 50);
const SIZE = pick(16, 256) * MIB;
/** The MiB that clients write to; the others are left to the streams. */
const WRITTEN = [1, 2, 6, 11, 15];
const SPEED = pick(1, 2) * MIB;

interface Setting {
  readonly daemon: DaemonProcess;
  readonly base: string;
  readonly content: Buffer;
  readonly random: Random;
}

function nameOf(index: number): string {
  return `vm${index}`;
}

async function makeDisks({ daemon, base }: Setting): Promise<Map<string, string>> {
  const uris = new Map<string, string>();
  for (let index = 0; index < DISKS; index++) {
    const format = index % 2 === 0 ? ("qcow2" as const) : ("qed" as const);
    const disk = await daemon.client.call("createDisk", {
      body: { name: nameOf(index), format, backing: base, backingFormat: "raw", stream: { speed: SPEED } },
    });
    uris.set(disk.name, disk.uri ?? "");
  }
  const body = { name: "base", image: base, format: "raw" } as const;
  uris.set("base", (await daemon.client.call("addExport", { body })).uri ?? "");
  return uris;
}

/** The disks, when each is served or has failed. A start does not wait for ever for those that take long. */
async function allServed({ daemon }: Setting): Promise<Map<string, Disk>> {
  for (;;) {
    const { disks } = await daemon.client.call("listDisks", {});
    if (disks.every(({ uri, error }) => uri !== undefined || error !== undefined)) {
      return new Map(disks.map((disk) => [disk.name, disk]));
    }
    await sleep(50);
  }
}

/** Kills the daemon while an order is under way, starts it again, and looks whether everything is there. */
async function killOnce(setting: Setting, uris: ReadonlyMap<string, string>, round: number): Promise<number> {
  const { daemon, random, base } = setting;
  await sleep(between(random, 10, 500));
  const extra = `extra${round}`;
  const body = { name: extra, backing: base, backingFormat: "raw" } as const;
  const ordered = daemon.client.call("createDisk", { body }).then(
    () => true,
    () => false,
  );
  await sleep(below(random, 60));
  assert.equal((await daemon.stop("SIGKILL"))?.killedBy, "SIGKILL");
  const wasMade = await ordered;
  const diedAt = performance.now();
  await daemon.start();
  const outage = performance.now() - diedAt;

  const found = await allServed(setting);
  if (wasMade) assert(found.has(extra), `${extra} was acknowledged`);
  const made = found.get(extra);
  if (made !== undefined) {
    assert.deepEqual([made.state, made.missingBytes], ["ready", SIZE]);
    await daemon.client.disk(extra).delete({ deleteFile: true });
  }
  for (const [name, uri] of uris) {
    if (name === "base") continue;
    const disk = found.get(name);
    assert.deepEqual([disk?.state, disk?.uri], ["ready", uri], JSON.stringify(disk));
    assert.match(disk?.stream?.state ?? "none", /^(?:created|running|waiting)$/);
  }
  const { exports } = await daemon.client.call("listExports", {});
  assert.deepEqual(
    exports.map(({ uri }) => uri),
    [uris.get("base")],
  );
  await using node = await connectNbd(uris.get("base") ?? "");
  await node.read(0, new Uint8Array(SECTOR));
  const files = readdirSync(join(daemon.state, "images")).sort();
  assert.deepEqual(
    files.filter((file) => !file.startsWith("vm")),
    [],
    "nothing is left of what was being made",
  );
  return outage;
}

async function finish(setting: Setting, guests: readonly WritingGuest[]): Promise<void> {
  const { daemon } = setting;
  for (const { name } of guests) await daemon.client.disk(name).setSpeed(null);
  for (const { name } of guests) {
    for (;;) {
      const job = await daemon.client.disk(name).streamInfo();
      if (job.state === "completed") break;
      assert.match(job.state, /^(?:created|running|waiting)$/, job.reason?.message);
      await sleep(50);
    }
  }
  for (const guest of guests) await guest.stop();
}

/** Numbers ascend without a gap: nothing that was told is missing. */
async function checkEvents({ daemon }: Setting): Promise<void> {
  const events: Event[] = [];
  for (;;) {
    const page = await daemon.client.call("listEvents", { query: { after: events.at(-1)?.id ?? 0, limit: 1000 } });
    if (page.events.length === 0) break;
    events.push(...page.events);
  }
  assert.deepEqual(
    events.map(({ id }) => id),
    events.map((_, index) => index + 1),
  );
  const count = (type: string, disk?: string): number =>
    events.filter((event) => event.type === type && (disk === undefined || event.disk === disk)).length;
  assert.equal(count("daemon-started"), KILLS + 1);
  for (let index = 0; index < DISKS; index++) {
    const name = nameOf(index);
    assert.equal(count("disk-opened", name), KILLS + 1, name);
    assert.deepEqual([count("job-created", name), count("job-completed", name), count("job-failed", name)], [1, 1, 0]);
  }
}

async function checkImages(
  { daemon, content }: Setting,
  guests: readonly WritingGuest[],
  directory: string,
): Promise<void> {
  for (const [index, { name, model }] of guests.entries()) {
    const format = index % 2 === 0 ? "qcow2" : "qed";
    const image = join(daemon.state, "images", `${name}.${format}`);
    const expected = join(directory, `${name}.expected`);
    const whole = Buffer.from(content);
    for (const [mib, bytes] of model.areas) bytes.copy(whole, mib * MIB);
    writeFileSync(expected, whole);
    const { corruptions = 0, "check-errors": errors } = qemuCheckStatus(image, format);
    assert.deepEqual({ corruptions, errors }, { corruptions: 0, errors: 0 });
    await cliOk(["check", image]).catch(() => cliOk(["check", image, "--repair", "leaks"]));
    qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
    const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
    assert.equal(info["backing-filename"], undefined);
    rmSync(expected);
  }
}

function makeBase(t: TestContext): { directory: string; content: Buffer } {
  const directory = temporaryDirectory(t);
  const content = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 2 * MIB) noise(MIB + MIB / 2, at + 7).copy(content, at);
  return { directory, content };
}

test(`${KILLS} times kill -9 of the daemon under ${DISKS} disks: nothing is lost, everything goes on`, async (t) => {
  const { directory, content } = makeBase(t);
  await using daemon = new DaemonProcess(directory, ["--max-streams", String(DISKS)]);
  const base = join(daemon.images, "base.raw");
  writeFileSync(base, content);
  const setting = { daemon, base, content, random: rng("daemon-kill") };
  await daemon.start();
  const uris = await makeDisks(setting);
  const guests = Array.from({ length: DISKS }, (_, index) => {
    const name = nameOf(index);
    return new WritingGuest(name, uris.get(name) ?? "", new WriteModel(content, WRITTEN), rng(`daemon-kill ${name}`));
  });
  // A failure must not leave them knocking.
  t.after(() => {
    for (const guest of guests) guest.leave();
  });
  const outages: number[] = [];
  for (let round = 0; round < KILLS; round++) {
    outages.push(await killOnce(setting, uris, round));
    // Each guest comes back, and finds what it wrote.
    const before = guests.map(({ returns }) => returns);
    for (const [index, guest] of guests.entries()) {
      while (guest.returns === before[index] && guest.returns <= round) {
        await Promise.race([sleep(10), guest.running]);
      }
    }
  }
  await finish(setting, guests);
  await checkEvents(setting);
  assert.equal((await daemon.stop())?.exit, 0);
  await checkImages(setting, guests, directory);
  assert(readFileSync(base).equals(content), "nothing was written to the base");
  const writes = guests.reduce((sum, { model }) => sum + model.acknowledged, 0);
  const longest = Math.max(...outages);
  t.diagnostic(`cells ${KILLS}; ${writes} writes acknowledged; down for at most ${Math.round(longest)} ms`);
  assert(writes > KILLS * DISKS);
});
