/** The daemon over a memory of its own, with real images, sockets and clients. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { startNbdkit } from "../../test/support/nbd-servers.ts";
import { qemuImg } from "../../test/support/qemu.ts";
import { type Disk, type NewDisk, ROUTES } from "../api/index.ts";
import type { EventRecord, JobState } from "../jobs/index.ts";
import { connectNbd } from "../nbd/index.ts";
import { Daemon } from "./daemon.ts";
import type { DaemonOptions } from "./daemon-options.ts";

const MIB = 2 ** 20;
const SIZE = 8 * MIB;

/** A store that outlives its daemons, as one on a disk does. */
class LastingStore extends MemoryStore {
  override async close(): Promise<void> {}
}

class Bench {
  readonly directory: string;
  readonly base: string;
  readonly content = Buffer.alloc(SIZE, 0x5a);
  readonly store = new LastingStore();
  options: DaemonOptions;
  daemon!: Daemon;

  constructor(t: TestContext, options: Partial<DaemonOptions> = {}) {
    this.directory = temporaryDirectory(t);
    this.base = join(this.directory, "sources", "base.raw");
    for (const name of ["images", "sockets", "sources"]) mkdirSync(join(this.directory, name));
    this.content.fill(0, MIB, 2 * MIB);
    writeFileSync(this.base, this.content);
    this.options = {
      version: "0",
      imageDirectory: join(this.directory, "images"),
      socketDirectory: join(this.directory, "sockets"),
      machineDirectory: join(this.directory, "machines"),
      allow: [join(this.directory, "sources")],
      allowKeys: [],
      sourceOptions: {},
      maxStreams: 4,
      keep: { events: 1000, jobs: 100 },
      firstRetryMs: 20,
      ...options,
    };
    t.after(() => this.daemon.close());
  }

  async start(): Promise<Daemon> {
    this.daemon = await Daemon.start(this.store, this.options);
    return this.daemon;
  }

  async restart(): Promise<Daemon> {
    await this.daemon.close();
    return this.start();
  }

  create(order: Partial<NewDisk> & { name: string }): Promise<Disk> {
    const fields = { backing: this.base, backingFormat: "raw", ...order };
    return this.daemon.createDisk({ params: {}, query: {}, body: ROUTES.createDisk.body.parse(fields) });
  }

  disk(name: string): Promise<Disk> {
    return this.daemon.getDisk({ params: { disk: name }, query: {}, body: {} });
  }

  stream(name: string, order: { base?: string; speed?: number; priority?: number } = {}) {
    return this.daemon.startStream({ params: { disk: name }, query: {}, body: { priority: 0, ...order } });
  }

  async until(name: string, ...states: JobState[]): Promise<Disk> {
    for (;;) {
      const disk = await this.disk(name);
      if (disk.stream !== undefined && states.includes(disk.stream.state)) return disk;
      await sleep(10);
    }
  }

  async events(): Promise<EventRecord[]> {
    return this.store.events({ limit: 1000 });
  }

  async types(disk: string): Promise<string[]> {
    return (await this.events()).filter((event) => event.disk === disk).map(({ type }) => type);
  }
}

const of = (disk: string) => ({ params: { disk }, query: {}, body: {} });

test("a disk is made over a source, served, streamed and stands alone", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const disk = await bench.create({ name: "vm1" });
  assert.equal(disk.state, "ready");
  assert.equal(disk.backing, bench.base);
  assert.equal(disk.length, SIZE);
  assert.equal(disk.missingBytes, SIZE);
  assert.equal(disk.image, join(bench.directory, "images/vm1.qcow2"));
  {
    await using guest = await connectNbd(disk.uri ?? "");
    await guest.write(4096, Buffer.alloc(512, 1));
  }
  bench.content.fill(1, 4096, 4608);
  assert.equal((await bench.stream("vm1")).state, "running");
  const { hydrated, backing, stream, source } = await bench.until("vm1", "completed");
  while (!(await bench.events()).some(({ type, source: free }) => type === "source-free" && free === bench.base))
    await sleep(5);
  assert.deepEqual([hydrated, backing, source?.state], [true, undefined, "none"]);
  assert.equal(stream?.missingBytes, 0);
  const types = await bench.types("vm1");
  assert.deepEqual(
    types.filter((type) => type !== "disk-changed"),
    ["disk-opened", "disk-created", "job-created", "job-started", "job-completed", "hydrated"],
  );
  await bench.daemon.close();
  rmSync(bench.base);
  const copy = join(bench.directory, "copy.raw");
  qemuImg("convert", "-O", "raw", disk.image, copy);
  assert(readFileSync(copy).equals(bench.content));
});

test("a stream goes on over a restart, a paused one stays paused, and the sockets are the same", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const running = await bench.create({ name: "a", stream: { speed: MIB } });
  const paused = await bench.create({ name: "b", stream: { speed: MIB } });
  await bench.daemon.pauseStream(of("b"));
  assert.equal((await bench.disk("b")).stream?.state, "paused");
  await bench.restart();
  const again = await bench.until("a", "running");
  assert.equal(again.uri, running.uri);
  assert.equal((await bench.disk("b")).uri, paused.uri);
  assert.equal((await bench.disk("b")).stream?.state, "paused");
  const wide = { params: { disk: "a" }, query: {}, body: { speed: null } };
  await bench.daemon.setSpeed(wide);
  const done = await bench.until("a", "completed");
  assert.equal(done.stream?.id, running.stream?.id);
  await bench.daemon.setSpeed({ ...wide, params: { disk: "b" } });
  await bench.daemon.resumeStream(of("b"));
  assert.equal((await bench.until("b", "completed")).hydrated, true);
});

/** An image between a base and a disk, with data of its own, and zeroes where the base has data. */
function middleOver({ base, content, directory }: Bench): string {
  const middle = join(directory, "sources/middle.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", middle);
  const change = ["-c", "write -q -P 0x77 0 3M", "-c", "write -q -z 4M 1M"];
  execFileSync("qemu-io", ["-f", "qcow2", ...change, middle]);
  content.fill(0x77, 0, 3 * MIB).fill(0, 4 * MIB, 5 * MIB);
  return middle;
}

test("a stream goes down to a base, also over restarts, and the disk lies over that afterwards", async (t) => {
  const bench = new Bench(t);
  const middle = middleOver(bench);
  await bench.start();
  await bench.create({ name: "a", backing: middle, backingFormat: "qcow2" });
  const job = await bench.stream("a", { base: bench.base, speed: MIB / 2 });
  assert.equal(job.base, bench.base);
  await bench.daemon.pauseStream(of("a"));
  const [stored] = await bench.store.disks();
  const unfinished = await bench.store.job(job.id);
  await bench.restart();
  assert.deepEqual([(await bench.disk("a")).stream?.base, (await bench.disk("a")).backing], [bench.base, middle]);
  await bench.daemon.resumeStream(of("a"));
  await bench.restart();
  await bench.daemon.setSpeed({ ...of("a"), body: { speed: null } });
  const done = await bench.until("a", "completed");
  assert.deepEqual([done.backing, done.hydrated, done.stream?.id], [bench.base, false, job.id]);
  assert.deepEqual([done.stream?.missingBytes, done.missingBytes], [0, 4 * MIB]);
  const settings = async () => (await bench.store.disks())[0]?.settings;
  assert.deepEqual([(await settings())?.backing, (await settings())?.backingFormat], [bench.base, "raw"]);
  assert((await bench.types("a")).includes("base-reached"));
  assert(!(await bench.types("a")).includes("hydrated"));

  // As if it had been killed when the image was linked to its base, and nothing was written down of that.
  await bench.daemon.close();
  rmSync(middle);
  assert(stored && unfinished);
  await bench.store.putDisk(stored);
  await bench.store.putJob(unfinished);
  await bench.start();
  assert.equal((await settings())?.backing, bench.base);
  assert.deepEqual([(await bench.disk("a")).state, (await bench.disk("a")).backing], ["ready", bench.base]);
  await bench.daemon.resumeStream(of("a"));
  await bench.until("a", "completed");
  await bench.daemon.close();
  const copy = join(bench.directory, "copy.raw");
  qemuImg("convert", "-O", "raw", done.image, copy);
  assert(readFileSync(copy).equals(bench.content));
});

test("a base that does not lie below a disk is refused, with what does", async (t) => {
  const bench = new Bench(t);
  const middle = middleOver(bench);
  await bench.start();
  const { image } = await bench.create({ name: "a", backing: middle, backingFormat: "qcow2" });
  const other = join(bench.directory, "sources/other.raw");
  writeFileSync(other, "");
  await assert.rejects(bench.stream("a", { base: other }), {
    code: "invalid-argument",
    message: `The base '${other}' is not in the backing chain of '${image}': that is '${image}' over '${middle}' over '${bench.base}'`,
  });
  await assert.rejects(bench.stream("a", { base: "/etc/passwd" }), { code: "refused" });
  await assert.rejects(bench.daemon.streamInfo(of("a")), { code: "not-found" });
  await bench.daemon.deleteDisk({ ...of("a"), query: { deleteFile: false } });
  await bench.create({ name: "b", image, adopt: true, backing: middle, backingFormat: "qcow2" });
  await assert.rejects(bench.stream("b", { base: bench.base }), { code: "refused", message: /adopt it again/ });
});

test("a stream is cancelled, and there is nothing to act on afterwards", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a", stream: { speed: MIB } });
  await assert.rejects(bench.stream("a"), { code: "in-use" });
  await assert.rejects(bench.daemon.stepStream({ ...of("a"), body: { length: MIB } }), { code: "in-use" });
  const job = await bench.daemon.cancelStream(of("a"));
  assert.equal(job.state, "cancelled");
  assert.equal(job.reason?.code, "cancelled");
  await assert.rejects(bench.daemon.pauseStream(of("a")), { code: "not-found" });
  assert.equal((await bench.daemon.streamInfo(of("a"))).id, job.id);
  await bench.stream("a");
  await bench.until("a", "completed");
  const { jobs, next } = await bench.daemon.listJobs({ params: {}, query: { limit: 1 }, body: {} });
  assert.deepEqual([jobs.length, jobs[0]?.state, next], [1, "completed", jobs[0]?.id]);
});

test("steps fetch a disk, one after another", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a" });
  let step = { next: 0, copied: 0, done: false };
  let steps = 0;
  while (!step.done) {
    step = await bench.daemon.stepStream({ ...of("a"), body: { offset: step.next, length: 2 * MIB } });
    steps++;
  }
  assert(steps >= 4);
  assert.equal((await bench.disk("a")).hydrated, true);
  assert((await bench.types("a")).includes("hydrated"));
});

test("no more streams run than may, and the queue goes by priority", async (t) => {
  const bench = new Bench(t, { maxStreams: 1 });
  await bench.start();
  await bench.create({ name: "first", stream: { speed: MIB } });
  for (const name of ["low", "high"]) await bench.create({ name });
  assert.equal((await bench.stream("low")).state, "created");
  await bench.stream("high", { priority: 5 });
  await bench.daemon.pauseStream(of("first"));
  await bench.until("low", "completed");
  assert.equal((await bench.disk("first")).stream?.state, "paused");
  const started = (await bench.events()).filter(({ type }) => type === "job-started").map(({ disk }) => disk);
  assert.deepEqual(started, ["first", "high", "low"]);
});

test("two streams share their source's limit evenly, guests do not, and a changed limit outlives the daemon", async (t) => {
  const bench = new Bench(t, { sourceSpeed: MIB });
  await bench.start();
  const a = await bench.create({ name: "a", stream: true });
  await bench.until("a", "running");
  await bench.create({ name: "b", stream: true });
  await bench.until("b", "running");
  const shares = async () => Promise.all(["a", "b"].map(async (name) => (await bench.disk(name)).stream?.share));
  while ((await shares()).some((share) => share !== MIB / 2)) await sleep(10);
  {
    await using guest = await connectNbd(a.uri ?? "");
    const bytes = Buffer.alloc(SIZE);
    await guest.read(0, bytes);
    assert(bytes.equals(bench.content));
  }
  assert.equal(
    (await bench.disk("b")).stream?.state,
    "running",
    "the guest of 'a' did not wait for what the limit allows",
  );
  const set = (place: string, speed?: number | null) =>
    bench.daemon.setLimit({ params: {}, query: {}, body: { place, ...(speed !== undefined && { speed }) } });
  await set("all", MIB / 2);
  assert.deepEqual(await shares(), [MIB / 4, MIB / 4]);
  await bench.restart();
  const { limits } = await bench.daemon.listLimits({ params: {}, query: {}, body: {} });
  assert.deepEqual(limits[0], { place: "all", speed: MIB / 2, setBy: "api" });
  for (const place of ["all", "each"]) await set(place, null);
  for (const name of ["a", "b"]) assert.equal((await bench.until(name, "completed")).hydrated, true);
  const told = (await bench.events()).filter(({ type }) => type === "limit-changed");
  assert.match(told[0]?.message ?? "", /^All streams together may take 524288 bytes a second/);
});

test("a disk whose making fails leaves nothing behind", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const missing = join(bench.directory, "sources/none.raw");
  await assert.rejects(bench.create({ name: "a", backing: missing }), { code: "not-found" });
  mkdirSync(join(bench.directory, "sockets/b.sock"));
  await assert.rejects(bench.create({ name: "b" }), { code: "exists" });
  assert.deepEqual(await bench.store.disks(), []);
  assert.deepEqual(readdirSync(join(bench.directory, "images")), []);
  await assert.rejects(bench.disk("a"), { code: "not-found" });
  await bench.create({ name: "a" });
  await assert.rejects(bench.create({ name: "a" }), { code: "exists" });
  await assert.rejects(bench.create({ name: "c", image: "a.qcow2" }), { code: "exists" });
  const both = await Promise.allSettled([bench.create({ name: "d" }), bench.create({ name: "d" })]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
});

test("what a daemon left half made is finished or undone, and what it began to delete is gone", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  for (const name of ["whole", "half", "gone"]) await bench.create({ name });
  const records = await bench.store.disks();
  await bench.daemon.close();
  for (const record of records) {
    if (record.name === "gone") await bench.store.putDisk({ ...record, state: "deleting", deleteFile: true });
    else await bench.store.putDisk({ ...record, state: "creating" });
  }
  const images = join(bench.directory, "images");
  rmSync(join(images, "half.qcow2"));
  writeFileSync(join(images, "half.qcow2.streamdisk-0123456789abcdef.new"), "half");
  await bench.start();
  const { disks } = await bench.daemon.listDisks({ params: {}, query: { limit: 100 }, body: {} });
  assert.deepEqual(
    disks.map(({ name, state, uri }) => [name, state, uri !== undefined]),
    [["whole", "ready", true]],
  );
  assert.deepEqual(readdirSync(images), ["whole.qcow2"]);
  assert.deepEqual(
    (await bench.store.disks()).map(({ name, state }) => [name, state]),
    [["whole", "ready"]],
  );
});

test("a disk that cannot be opened says why, holds up nobody and is tried again", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const a = await bench.create({ name: "a", stream: { speed: MIB } });
  await bench.create({ name: "b" });
  await bench.daemon.close();
  const hidden = `${a.image}.hidden`;
  const image = readFileSync(a.image);
  rmSync(a.image);
  await bench.start();
  const failed = await bench.disk("a");
  assert.deepEqual([failed.state, failed.error?.code, failed.uri], ["failed", "not-found", undefined]);
  assert.equal((await bench.disk("b")).state, "ready");
  assert.equal(failed.stream?.state, "waiting");
  assert.equal((await bench.types("a")).filter((type) => type === "disk-failed").length, 1);
  writeFileSync(a.image, image);
  assert.equal((await bench.until("a", "running")).state, "ready");
  assert(!existsSync(hidden));
});

test("a wide list says on what each disk depends, by every level of its chain", async (t) => {
  const bench = new Bench(t);
  await using far = await startNbdkit(["-r", "file", bench.base], { tcp: true });
  const middle = join(bench.directory, "sources/middle.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", far.uri, "-F", "raw", middle);
  bench.options = { ...bench.options, allow: [...bench.options.allow, far.uri] };
  await bench.start();
  await bench.create({ name: "alone", backing: undefined, backingFormat: undefined, size: MIB });
  await bench.create({ name: "deep", backing: middle, backingFormat: "qcow2" });
  await bench.create({ name: "near", stream: true });
  await bench.until("near", "completed");
  await bench.create({ name: "near2" });
  const list = async (query: object) => {
    const input = { params: {}, query: ROUTES.listDisks.query.parse(query), body: {} };
    return (await bench.daemon.listDisks(input)).disks;
  };
  const names = async (query: object) => (await list(query)).map(({ name }) => name);
  const [alone, deep, near, near2] = await list({ wide: "true" });
  assert.deepEqual([alone?.below, near?.below, near?.stream?.state], [[], [], "completed"]);
  const { host, uri } = { host: "127.0.0.1", uri: far.uri };
  assert.deepEqual(deep?.below, [
    { uri: middle, host: "this host" },
    { uri, host },
  ]);
  assert.deepEqual(near2?.below, [{ uri: bench.base, host: "this host" }]);
  assert.deepEqual(await names({ host }), ["deep"]);
  assert.deepEqual(await names({ host: "this host" }), ["deep", "near2"]);
  assert.deepEqual(await names({ source: uri }), ["deep"]);
  assert.deepEqual(await names({ limit: "2" }), ["alone", "deep"]);
  assert.deepEqual(await names({ after: "deep", limit: "2", hydrated: "false" }), ["near2"]);
  assert((await list({})).every(({ below }) => below === undefined));
});

test("an image is adopted, and never deleted", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const image = join(bench.directory, "sources/mine.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", bench.base, "-F", "raw", image);
  const adopt = { name: "mine", adopt: true, image } as const;
  const body = ROUTES.createDisk.body.parse(adopt);
  const disk = await bench.daemon.createDisk({ params: {}, query: {}, body });
  assert.equal(disk.backing, bench.base);
  const remove = (deleteFile: boolean) =>
    bench.daemon.deleteDisk({ params: { disk: "mine" }, query: { deleteFile }, body: {} });
  await assert.rejects(remove(true), { code: "refused" });
  assert.equal((await bench.disk("mine")).state, "ready");
  await remove(false);
  assert(existsSync(image));
  assert.deepEqual(readdirSync(join(bench.directory, "sockets")), []);
  await bench.create({ name: "own" });
  await bench.daemon.deleteDisk({ params: { disk: "own" }, query: { deleteFile: true }, body: {} });
  assert.deepEqual(readdirSync(join(bench.directory, "images")), []);
});

test("nothing outside of what is allowed is opened", async (t) => {
  const bench = new Bench(t, { allow: ["nbd://allowed.example/"] });
  await bench.start();
  symlinkSync("/etc", join(bench.directory, "images/link"));
  for (const backing of [bench.base, "/etc/shadow", "../sources/base.raw", "link/shadow", "nbd://evil.example/x"]) {
    await assert.rejects(bench.create({ name: "a", backing }), { code: "refused" }, backing);
  }
  for (const image of ["/etc/x.qcow2", "../x.qcow2", "link/x.qcow2"]) {
    await assert.rejects(bench.create({ name: "a", image, backing: undefined, size: MIB }), { code: "refused" }, image);
  }
  const exported = (fields: object) => {
    const body = ROUTES.addExport.body.parse({ name: "e", image: "a.raw", format: "raw", ...fields });
    return assert.rejects(bench.daemon.addExport({ params: {}, query: {}, body }), { code: "refused" });
  };
  writeFileSync(join(bench.directory, "images/a.raw"), bench.content);
  await exported({ image: "/etc/passwd" });
  await exported({ listen: { socket: "/etc/e.sock" } });
  await exported({ tlsCertificates: "/etc/pki" });
  await exported({ tlsPskFile: "/etc/shadow" });
  const evil = join(bench.directory, "images/evil.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", evil, "1M");
  const adopt = ROUTES.createDisk.body.parse({ name: "evil", adopt: true, image: "evil.qcow2" });
  await assert.rejects(bench.daemon.createDisk({ params: {}, query: {}, body: adopt }), { code: "refused" });
  assert.deepEqual(await bench.store.disks(), []);
});

test("what is not allowed any more is not opened at a start, until it is allowed again", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a" });
  await bench.create({ name: "own", backing: undefined, size: MIB });
  const body = ROUTES.addExport.body.parse({ name: "e", image: bench.base, format: "raw" });
  await bench.daemon.addExport({ params: {}, query: {}, body });
  const errors = async () => {
    const { exports } = await bench.daemon.listExports({ params: {}, query: {}, body: {} });
    const all = [await bench.disk("a"), await bench.disk("own"), ...exports];
    return all.map(({ error }) => error?.code);
  };
  const { allow } = bench.options;
  bench.options = { ...bench.options, allow: [] };
  await bench.restart();
  assert.deepEqual(await errors(), ["refused", undefined, "refused"]);
  bench.options = { ...bench.options, allow };
  await bench.restart();
  assert.deepEqual(await errors(), [undefined, undefined, undefined]);
});

test("a disk grows without showing its base, and shrinks only when asked", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a", size: 4 * MIB, stream: { speed: MIB } });
  const resize = (length: number, shrink = false) =>
    bench.daemon.resizeDisk({ params: { disk: "a" }, query: {}, body: { length, shrink } });
  const { uri, length } = await resize(SIZE);
  assert.equal(length, SIZE);
  await using guest = await connectNbd(uri ?? "");
  const beyond = Buffer.alloc(4 * MIB, 1);
  await guest.read(4 * MIB, beyond);
  assert(beyond.equals(Buffer.alloc(4 * MIB)));
  await assert.rejects(resize(MIB), { code: "refused" });
  assert.equal((await bench.until("a", "running")).length, SIZE);
  assert.equal((await resize(MIB, true)).length, MIB);
  const { runs } = await bench.daemon.diskMap({ params: { disk: "a" }, query: { offset: 0, limit: 1000 }, body: {} });
  assert.equal(
    runs.reduce((sum, run) => sum + run.length, 0),
    MIB,
  );
});

test("a source that has moved is replaced under a stream, when it agrees", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a", stream: { speed: MIB } });
  const moved = join(bench.directory, "sources/moved.raw");
  const other = join(bench.directory, "sources/other.raw");
  writeFileSync(moved, bench.content);
  writeFileSync(other, Buffer.alloc(SIZE, 3));
  const replace = (backing: string) =>
    bench.daemon.replaceSource({
      params: { disk: "a" },
      query: {},
      body: { backing, backingFormat: "raw", force: false },
    });
  await assert.rejects(replace(other), { code: "refused" });
  assert.equal((await bench.until("a", "running")).backing, bench.base);
  assert.equal((await replace(moved)).backing, moved);
  await bench.until("a", "running");
  const { sources } = await bench.daemon.listSources({ params: {}, query: {}, body: {} });
  assert.deepEqual(
    sources.map(({ uri, disks, state }) => [uri, disks, state]),
    [[moved, ["a"], "ok"]],
  );
  rmSync(bench.base);
  await bench.restart();
  await bench.daemon.setSpeed({ params: { disk: "a" }, query: {}, body: { speed: null } });
  assert.equal((await bench.until("a", "completed")).hydrated, true);
});

test("a source that is deleted is told of and read on, and the stream saves the disk", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a" });
  rmSync(bench.base);
  while ((await bench.disk("a")).source?.state !== "deleted") await sleep(10);
  const told = (await bench.events()).find(({ type }) => type === "source-deleted");
  assert.equal(told?.disk, "a");
  assert.match(told?.message ?? "", /^The source of 'a' is not there any more: '.*base\.raw' was deleted/);
  const { sources } = await bench.daemon.listSources({ params: {}, query: {}, body: {} });
  assert.deepEqual(
    sources.map(({ uri, state }) => [uri, state]),
    [[bench.base, "deleted"]],
  );
  await bench.stream("a");
  const { source, uri } = await bench.until("a", "completed");
  assert.equal(source?.state, "none");
  const [seen] = (await bench.daemon.listSources({ params: {}, query: {}, body: {} })).sources;
  assert.deepEqual([seen?.uri, seen?.disks, seen?.errors], [bench.base, [], 0]);
  assert((seen?.fetchedBytes ?? 0) >= SIZE - MIB && (seen?.requests ?? 0) > 0 && seen?.latency !== undefined);
  await using guest = await connectNbd(uri ?? "");
  const bytes = Buffer.alloc(SIZE);
  await guest.read(0, bytes);
  assert(bytes.equals(bench.content));
  assert(!(await bench.types("a")).includes("source-back"));
});

test("sockets of disks and exports are for whom the settings say, whatever they said before", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "a" });
  const body = ROUTES.addExport.body.parse({ name: "base", image: bench.base, format: "raw" });
  await bench.daemon.addExport({ params: {}, query: {}, body });
  const modes = () =>
    ["a.sock", "export-base.sock"].map((name) => statSync(join(bench.options.socketDirectory, name)).mode & 0o777);
  assert.deepEqual(modes(), [0o600, 0o600]);
  bench.options = { ...bench.options, diskSocketGroup: "0" };
  await bench.restart();
  assert.deepEqual(modes(), [0o660, 0o660]);
  bench.options = { ...bench.options, diskSocketMode: 0o666 };
  await bench.restart();
  assert.deepEqual(modes(), [0o666, 0o666]);
});

test("an export is served under the same address after a restart, until it is removed", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const add = (fields: object) =>
    bench.daemon.addExport({
      params: {},
      query: {},
      body: ROUTES.addExport.body.parse({ image: bench.base, format: "raw", ...fields }),
    });
  const unix = await add({ name: "base" });
  const tcp = await add({ name: "tcp", listen: { port: 0 } });
  await assert.rejects(add({ name: "base" }), { code: "exists" });
  await assert.rejects(add({ name: "open", listen: { port: 0, bind: "0.0.0.0" } }), { code: "refused" });
  await assert.rejects(add({ name: "none", image: join(bench.directory, "sources/none") }), { code: "not-found" });
  await bench.restart();
  const { exports } = await bench.daemon.listExports({ params: {}, query: {}, body: {} });
  assert.deepEqual(
    exports.map(({ uri }) => uri),
    [unix.uri, tcp.uri],
  );
  for (const { uri } of exports) {
    await using guest = await connectNbd(uri ?? "", { readOnly: true });
    const bytes = Buffer.alloc(SIZE);
    await guest.read(0, bytes);
    assert(bytes.equals(bench.content));
  }
  await bench.daemon.removeExport({ params: { export: "base" }, query: {}, body: {} });
  await bench.restart();
  assert.deepEqual((await bench.daemon.listExports({ params: {}, query: {}, body: {} })).exports.length, 1);
});

test("an export whose removal a killed daemon began is removed with the socket that was left", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const body = ROUTES.addExport.body.parse({ name: "base", image: bench.base, format: "raw" });
  await bench.daemon.addExport({ params: {}, query: {}, body });
  await bench.daemon.close();
  const record = (await bench.store.exports())[0]!;
  await bench.store.putExport({ ...record, removing: true });
  const path = join(bench.directory, "sockets", "export-base.sock");
  const killed = createServer().listen(`${path}.k`);
  await once(killed, "listening");
  renameSync(`${path}.k`, path);
  killed.close();
  await bench.start();
  assert.deepEqual([await bench.store.exports(), existsSync(path)], [[], false]);
});

test("a daemon that cannot start lets go of what it has", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  await bench.create({ name: "d" });
  await bench.daemon.close();
  let closed = false;
  bench.store.close = async () => {
    closed = true;
  };
  bench.store.deployments = async () => {
    throw new Error("unreadable");
  };
  await assert.rejects(bench.start(), /unreadable/);
  assert.equal(closed, true);
});

test("a source that nobody needs any more is told of after a restart, if the daemon died before it could", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const below = join(bench.directory, "sources", "below.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", below, "1M");
  const exported = join(bench.directory, "sources", "exported.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", exported);
  const body = ROUTES.addExport.body.parse({ name: "e", image: exported, format: "qcow2" });
  await bench.daemon.addExport({ params: {}, query: {}, body });
  await bench.create({ name: "vm1", stream: true });
  await bench.until("vm1", "completed");
  const sources = async () => {
    const found = (await bench.daemon.listSources({ params: {}, query: {}, body: {} })).sources;
    return found.filter(({ disks, exports }) => disks.length + exports.length > 0).map(({ uri }) => uri);
  };
  while ((await sources()).length !== 1) await sleep(5);
  assert.deepEqual(await sources(), [below]);
  const free = async (source: string): Promise<number> =>
    (await bench.events()).filter((event) => event.type === "source-free" && event.source === source).length;
  while ((await free(bench.base)) === 0) await sleep(5);
  await bench.restart();
  assert.deepEqual([await free(bench.base), await free(below)], [1, 0]);
  await bench.daemon.close();
  // As kill -9 leaves them: the image had lost its link, or its export was to go, and nobody had been told.
  const [disk] = await bench.store.disks();
  await bench.store.putDisk({ ...disk!, needs: [bench.base] });
  const [record] = await bench.store.exports();
  assert.deepEqual(record?.needs, [exported, below]);
  await bench.store.putExport({ ...record!, removing: true });
  await bench.start();
  while ((await free(bench.base)) < 2 || (await free(below)) < 1) await sleep(5);
  assert.deepEqual(await bench.store.exports(), []);
  assert.deepEqual((await bench.store.disks())[0]?.needs, []);
  // A file that is offered is needed by its export.
  const offered = ROUTES.addExport.body.parse({ name: "b", image: bench.base, format: "raw" });
  await bench.daemon.addExport({ params: {}, query: {}, body: offered });
  await bench.create({ name: "vm2" });
  await bench.daemon.deleteDisk({ ...of("vm2"), query: { deleteFile: true } });
  assert.equal(await free(bench.base), 2);
  await bench.daemon.removeExport({ params: { export: "b" }, query: {}, body: {} });
  assert.equal(await free(bench.base), 3);
});

test("a follower sees every event once, from where it wants on", async (t) => {
  const bench = new Bench(t);
  await bench.start();
  const stop = new AbortController();
  const seen: EventRecord[] = [];
  const following = (async () => {
    for await (const event of bench.daemon.feed.follow(0, stop.signal)) seen.push(event);
  })();
  await bench.create({ name: "a", stream: true });
  await bench.until("a", "completed");
  const newest = await bench.daemon.feed.newest();
  while ((seen.at(-1)?.id ?? 0) < newest) await sleep(5);
  stop.abort();
  await following;
  assert.deepEqual(seen, await bench.events());
  assert.deepEqual(
    seen.map(({ id }) => id),
    seen.map((_, index) => index + 1),
  );
  for (const { message } of seen) assert.match(message, /^\S.{10,}/);
});
