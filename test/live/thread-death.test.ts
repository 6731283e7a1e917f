/**
 * Threads of the engine that die in the middle of everything: by an exception that nobody expected, or ended from outside. The process
 * lives on, and so do the clients of other threads; for the disks of the dead one it is as after kill -9 of the whole.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Worker } from "node:worker_threads";
import { ROUTES } from "../../src/api/index.ts";
import { Daemon } from "../../src/daemon/daemon.ts";
import { type ServedDisk, serveDisk } from "../../src/engine/index.ts";
import type { StreamdiskError } from "../../src/errors/index.ts";
import { createImage } from "../../src/image/index.ts";
import type { EventType } from "../../src/jobs/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { below, between } from "../support/draw.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng } from "../support/seed.ts";
import { WriteModel, WritingGuest } from "../support/writing-guest.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
/** Each that comes soon after the last is waited for twice as long: some more would take hours. */
const DEATHS = pick(4, 16);

/** The threads that live, in the order in which they were started. */
const threads: Worker[] = [];
process.on("worker", (worker) => {
  threads.push(worker);
  worker.on("exit", () => threads.splice(threads.indexOf(worker), 1));
});

function makeBase(path: string, seed: number): Buffer {
  const content = noise(SIZE, seed);
  content.fill(0, 8 * MIB, 9 * MIB);
  writeFileSync(path, content);
  return content;
}

/** Two served disks, each in a thread of its own. */
async function twoDisks(t: TestContext): Promise<{ disks: ServedDisk[]; images: string[] }> {
  const directory = temporaryDirectory(t);
  const images = [0, 1].map((index) => join(directory, `vm${index}.qcow2`));
  const disks: ServedDisk[] = [];
  for (const [index, image] of images.entries()) {
    const backing = join(directory, `base${index}.raw`);
    makeBase(backing, index);
    await createImage(image, { format: "qcow2", backing, backingFormat: "raw" });
    const disk = await serveDisk({ image, listen: { path: join(directory, `${index}.sock`) } });
    t.after(() => disk.close());
    disks.push(disk);
  }
  assert.equal(threads.length, 2);
  return { disks, images };
}

test("a thread dies of an exception: its disk says so in every way, and can be served again at once; the other lives", async (t) => {
  const { disks, images } = await twoDisks(t);
  const [lost, well] = disks as [ServedDisk, ServedDisk];
  await using neighbour = await connectNbd(well.uri);
  const guest = await connectNbd(lost.uri);
  // It was never flushed, and says so.
  t.after(() => guest.close().catch(() => {}));
  const written = noise(100_000, 3);
  await guest.write(MIB + 100, written);
  await lost.stream({ speed: MIB });

  const told = new Promise<StreamdiskError>((resolve) => lost.once("lost", resolve));
  const hydrated = assert.rejects(lost.hydrated(), { code: "shutdown", message: /died/ });
  // It makes no sense of this.
  threads[0]?.postMessage(null);
  const error = await told;
  assert.equal(error.code, "shutdown");
  assert(error.message.includes(images[0] ?? "") && /died: .*null/.test(error.message), error.message);
  await hydrated;
  await assert.rejects(lost.hydrated(), error);
  await assert.rejects(lost.info(), { code: "shutdown", message: /thread of the disk has died/ });
  await assert.rejects(lost.stream(), { code: "shutdown" });
  for await (const { state } of lost.progress()) assert.equal(state, "running");
  await lost.cancelStream();

  const again = await serveDisk({ image: images[0] as string, listen: { path: lost.socketPath as string } });
  t.after(() => again.close());
  await using back = await connectNbd(again.uri);
  const read = Buffer.alloc(written.length);
  await back.read(MIB + 100, read);
  assert(read.equals(written), "what was acknowledged is there");
  await neighbour.write(0, written);
  assert.equal((await well.info()).clients, 1);
});

test("a call under way fails when the thread is ended, and a close then is done", async (t) => {
  const { disks } = await twoDisks(t);
  const [lost] = disks as [ServedDisk];
  const ended = threads[0]?.terminate();
  await assert.rejects(lost.info(), { code: "shutdown" });
  await ended;
  await lost.close();
  await assert.rejects(lost.hydrated(), { code: "shutdown" });
});

test(`${DEATHS} deaths of threads under a daemon with writing guests and streams: nothing is lost, everything goes on`, async (t) => {
  const directory = temporaryDirectory(t);
  for (const name of ["images", "sockets", "sources"]) mkdirSync(join(directory, name));
  const random = rng("thread-death");
  await using store = new MemoryStore();
  await using daemon = await Daemon.start(store, {
    version: "0",
    imageDirectory: join(directory, "images"),
    socketDirectory: join(directory, "sockets"),
    machineDirectory: join(directory, "machines"),
    allow: [join(directory, "sources")],
    allowKeys: [],
    sourceOptions: {},
    maxStreams: 4,
    keep: { events: 10_000, jobs: 100 },
    firstRetryMs: 20,
  });
  const names = ["a", "b"];
  const guests: WritingGuest[] = [];
  const bases: Buffer[] = [];
  for (const [index, name] of names.entries()) {
    const backing = join(directory, "sources", `${name}.raw`);
    const content = makeBase(backing, index + 10);
    // Slow enough to be under way at every death, however slow the machine is.
    const order = { name, backing, backingFormat: "raw", stream: { speed: MIB / 32 } };
    const { uri = "" } = await daemon.createDisk({ params: {}, query: {}, body: ROUTES.createDisk.body.parse(order) });
    guests.push(new WritingGuest(name, uri, new WriteModel(content, [1, 3, 12]), rng(`thread-death ${name}`)));
    bases.push(content);
  }
  t.after(() => {
    for (const guest of guests) guest.leave();
  });
  // The export of a source is in the thread of the disk over it.
  const body = ROUTES.addExport.body.parse({ name: "a-base", image: join(directory, "sources", "a.raw") });
  const { uri: exported = "" } = await daemon.addExport({ params: {}, query: {}, body });
  assert.equal(threads.length, 2);
  const of = (disk: string) => ({ params: { disk }, query: {}, body: {} });

  for (let death = 0; death < DEATHS; death++) {
    await sleep(below(random, 200));
    const before = guests.map(({ returns }) => returns);
    const victim = threads[between(random, 0, threads.length - 1)];
    if (death % 2 === 0) victim?.postMessage(null);
    else await victim?.terminate();
    // One of the guests has to come back, and the other was not disturbed.
    while (guests.every(({ returns }, index) => returns === before[index])) {
      await Promise.race([sleep(10), ...guests.map(({ running }) => running)]);
    }
    assert.equal(guests.filter(({ returns }, index) => returns !== before[index]).length, 1);
    for (const name of names) {
      while ((await daemon.getDisk(of(name))).state !== "ready") await sleep(10);
    }
  }
  {
    await using node = await connectNbd(exported);
    const read = Buffer.alloc(MIB);
    await node.read(0, read);
    assert(read.equals(bases[0]?.subarray(0, MIB) as Buffer));
  }
  for (const [index, name] of names.entries()) {
    await daemon.setSpeed({ params: { disk: name }, query: {}, body: { speed: null } });
    while ((await daemon.streamInfo(of(name))).state !== "completed") await sleep(20);
    await guests[index]?.stop();
  }
  const events = await store.events({ limit: 10_000 });
  const count = (type: EventType, disk?: string) =>
    events.filter((event) => event.type === type && event.disk === disk).length;
  const lost = names.map((name) => count("disk-lost", name));
  assert.equal(lost[0]! + lost[1]!, DEATHS);
  assert.deepEqual(
    names.map((name) => [count("disk-opened", name), count("job-failed", name), count("job-completed", name)]),
    lost.map((losses) => [losses + 1, 0, 1]),
  );
  await daemon.close();
  for (const [index, name] of names.entries()) {
    const image = join(directory, "images", `${name}.qcow2`);
    const { corruptions = 0, "check-errors": errors } = qemuCheckStatus(image, "qcow2");
    assert.deepEqual({ corruptions, errors }, { corruptions: 0, errors: 0 });
    const expected = Buffer.from(bases[index] as Buffer);
    for (const [mib, bytes] of guests[index]!.model.areas) bytes.copy(expected, mib * MIB);
    writeFileSync(join(directory, "expected"), expected);
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, join(directory, "expected"));
  }
});
