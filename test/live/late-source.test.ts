/**
 * A disk whose source is away when it is opened: it is served all the same. What is local is answered, what is missing meets the
 * policy, the stream waits, and all of it goes on by itself when the source comes.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ROUTES } from "../../src/api/index.ts";
import { type LatePolicy, openChain } from "../../src/chain/index.ts";
import { Daemon } from "../../src/daemon/daemon.ts";
import { type ServeDiskOptions, serveDisk } from "../../src/engine/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import type { KnownSource } from "../../src/filters/index.ts";
import { createImage } from "../../src/image/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";
import { type DyingSource, HTTP_DEATHS, NBD_DEATHS } from "./dying-source.ts";

const MIB = 2 ** 20;
/** Of the source; the disk is longer. */
const BASE = 6 * MIB;
const SIZE = 8 * MIB;
const LOCAL = 2 * MIB;

interface Scene {
  readonly source: DyingSource;
  readonly image: string;
  readonly expected: Buffer;
  readonly directory: string;
}

const DEATHS = [...NBD_DEATHS, ...HTTP_DEATHS].filter(({ name }) =>
  /^(?:killed|refusing|hanging up|answering 503)/.test(name),
);
const CELLS = DEATHS.flatMap((death) =>
  (["raw", "qcow2"] as const).flatMap((format) => [true, false].map((says) => ({ death, format, says }))),
);

/** An overlay with something local, over a source that is away. */
async function sceneOf(t: TestContext, { death, format }: Omit<(typeof CELLS)[number], "says">): Promise<Scene> {
  const directory = temporaryDirectory(t);
  const content = noise(BASE, 5);
  content.fill(0, MIB, 2 * MIB);
  const raw = join(directory, "content.raw");
  writeFileSync(raw, content);
  const base = join(directory, `base.${format}`);
  qemuImg("convert", "-f", "raw", "-O", format, raw, base);
  const source = await death.start(base);
  t.after(() => source[Symbol.asyncDispose]());
  const image = join(directory, "vm.qcow2");
  await createImage(image, { format: "qcow2", backing: source.uri, backingFormat: format, size: SIZE });
  const expected = Buffer.concat([content, Buffer.alloc(SIZE - BASE)]);
  {
    await using disk = await serveDisk({ image, allowBacking: [source.uri] });
    await using guest = await connectNbd(disk.uri);
    const written = noise(MIB, 9);
    written.copy(expected, LOCAL);
    await guest.write(LOCAL, written);
  }
  await source.die();
  return { source, image, expected, directory };
}

const options = ({ image, source }: Scene, more: Partial<ServeDiskOptions> = {}): ServeDiskOptions => ({
  image,
  allowBacking: [source.uri],
  onSourceError: { holdMs: Number.POSITIVE_INFINITY, afterwards: "error" },
  ...more,
});

for (const cell of sample("late-source", CELLS, 4)) {
  const { death, format, says } = cell;
  const name = `over a source that is ${death.name}: ${format}${says ? "" : ", which nobody says"}`;
  test(name, async (t) => {
    const scene = await sceneOf(t, cell);
    const states: string[] = [];
    // In place of what the image says, and without a word of its format.
    await using disk = await serveDisk(options(scene, says ? {} : { backing: scene.source.uri }));
    disk.on("source", ({ state }) => states.push(state));
    await using guest = await connectNbd(disk.uri);
    const { source, below, length, missingBytes } = await disk.info();
    assert.deepEqual([source.state, below, length, missingBytes], ["lost", [scene.source.uri], SIZE, SIZE - MIB]);
    const local = Buffer.alloc(MIB);
    await guest.read(LOCAL, local);
    assert(local.equals(scene.expected.subarray(LOCAL, LOCAL + MIB)));
    await guest.write(7 * MIB, local);
    local.copy(scene.expected, 7 * MIB);

    // A read across the end of what nobody knows the end of.
    const held = Buffer.alloc(2 * MIB, 1);
    const answered = guest.read(5 * MIB, held);
    await disk.stream();
    while ((await disk.info()).stream?.state !== "waiting") await sleep(10);
    while ((await disk.info()).source.held === 0) await sleep(10);

    await scene.source.revive();
    await answered;
    assert(held.equals(scene.expected.subarray(5 * MIB, 7 * MIB)));
    await disk.hydrated();
    assert.deepEqual(states.slice(0, 2), ["lost", "ok"]);
    const whole = Buffer.alloc(SIZE);
    await guest.read(0, whole);
    assert(whole.equals(scene.expected));
    assert.equal((await disk.info()).source.state, "none");
  });
}

test("with the policy error a read of what is missing fails at once, until the source is there", async (t) => {
  const scene = await sceneOf(t, { death: DEATHS[0]!, format: "raw" });
  await using disk = await serveDisk(options(scene, { onSourceError: { holdMs: 0, afterwards: "error" } }));
  await using guest = await connectNbd(disk.uri);
  const bytes = Buffer.alloc(MIB);
  await assert.rejects(guest.read(0, bytes), { code: "io" });
  await scene.source.revive();
  while ((await disk.info()).source.state !== "ok") await sleep(10);
  await guest.read(0, bytes);
  assert(bytes.equals(scene.expected.subarray(0, MIB)));
  assert.deepEqual((await disk.info()).below, [scene.source.uri]);
});

test("a disk that is closed while its source is away keeps what it has", async (t) => {
  const scene = await sceneOf(t, { death: DEATHS[0]!, format: "qcow2" });
  const disk = await serveDisk(options(scene, { stream: true }));
  await disk.close();
  await scene.source.revive();
  const copy = join(scene.directory, "copy.raw");
  qemuImg("convert", "-O", "raw", scene.image, copy);
  assert(readFileSync(copy).equals(scene.expected));
});

test("what is wrong is no source that is away", async (t) => {
  const scene = await sceneOf(t, { death: DEATHS[0]!, format: "raw" });
  await assert.rejects(serveDisk(options(scene, { allowBacking: [] })), { code: "refused" });
  await scene.source.revive();
  await assert.rejects(serveDisk(options(scene, { backing: scene.source.uri, backingFormat: "qcow2" })), {
    code: "invalid-image",
  });
  const message = /gone\.raw/;
  await assert.rejects(serveDisk(options(scene, { backing: join(scene.directory, "gone.raw") })), {
    code: "not-found",
    message,
  });
});

test("what a source called zero is answered while it is away, and nothing of one that has changed", async (t) => {
  const scene = await sceneOf(t, { death: NBD_DEATHS.find(({ name }) => name === "killed")!, format: "raw" });
  await scene.source.revive();
  let known: readonly KnownSource[] = [];
  {
    await using disk = await serveDisk(options(scene));
    disk.on("learned", (now) => {
      known = now;
    });
    await using guest = await connectNbd(disk.uri);
    await guest.read(0, Buffer.alloc(512));
  }
  const [source] = known;
  assert.deepEqual([known.length, source?.length, source?.version], [1, BASE, undefined]);
  assert.deepEqual(source?.zeroes, [[MIB, MIB]]);
  await scene.source.die();
  const policy = { onSourceError: { holdMs: 0, afterwards: "error" } } as const;
  {
    await using disk = await serveDisk(options(scene, { ...policy, knownSources: known }));
    await using guest = await connectNbd(disk.uri);
    // Zeroes of the source, then local data.
    const bytes = Buffer.alloc(2 * MIB, 1);
    await guest.read(MIB, bytes);
    assert(bytes.equals(scene.expected.subarray(MIB, 3 * MIB)));
    await assert.rejects(guest.read(MIB - 512, Buffer.alloc(1024)), { code: "io" });
    await scene.source.revive();
    while ((await disk.info()).source.state !== "ok") await sleep(10);
    await guest.read(0, bytes);
    assert(bytes.equals(scene.expected.subarray(0, 2 * MIB)));
    await scene.source.die();
    const zeroes = Buffer.alloc(MIB, 1);
    await guest.read(MIB, zeroes);
    assert(zeroes.equals(Buffer.alloc(MIB)));
  }
  // Another one in its place: also where it is shorter only.
  await scene.source.revive();
  const other = known.map((one) => ({ ...one, length: one.length + 512 }));
  await using disk = await serveDisk(options(scene, { ...policy, knownSources: other }));
  const { state, message } = (await disk.info()).source;
  assert.equal(state, "changed");
  assert.match(message ?? "", new RegExp(`is not what it was: it has ${BASE} bytes, and had ${BASE + 512}`));
  await using guest = await connectNbd(disk.uri);
  const local = Buffer.alloc(MIB);
  await guest.read(LOCAL, local);
  assert(local.equals(scene.expected.subarray(LOCAL, LOCAL + MIB)));
  await assert.rejects(guest.read(MIB, local), { code: "io" });
});

test("an object of another version is not mixed with what was fetched of the old one, over a restart", async (t) => {
  const scene = await sceneOf(t, { death: HTTP_DEATHS.find(({ kind }) => kind === "changed")!, format: "raw" });
  const was: KnownSource = { source: scene.source.uri, length: BASE, version: '"1"', zeroes: [] };
  await using disk = await serveDisk(options(scene, { knownSources: [was], stream: true }));
  assert.equal((await disk.info()).source.state, "changed");
  await assert.rejects(disk.hydrated(), { code: "changed" });
});

test("a daemon that is started while a source is away serves its disk, and the stream goes on when it comes", async (t) => {
  const death = DEATHS[0]!;
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(5 * MIB, 3));
  truncateSync(base, BASE);
  await using source = await death.start(base);
  await using daemon = new DaemonProcess(directory, ["--allow", source.uri]);
  await daemon.start();
  const order = { name: "vm", backing: source.uri, backingFormat: "raw", stream: { speed: MIB / 2 } } as const;
  await daemon.client.call("createDisk", { body: order });
  await daemon.stop();
  await source.die();
  await daemon.start();
  const vm = daemon.client.disk("vm");
  while ((await vm.streamInfo()).reason?.code !== "source-lost") await sleep(20);
  const disk = await vm.info();
  assert.deepEqual([disk.state, disk.source?.state, disk.stream?.state], ["ready", "lost", "waiting"]);
  await using guest = await connectNbd(disk.uri ?? "");
  const zeroes = Buffer.alloc(MIB, 1);
  await guest.read(5 * MIB, zeroes);
  assert(zeroes.equals(Buffer.alloc(MIB)), "it remembers what is zero");
  // Nothing is made over what is not there.
  await assert.rejects(daemon.client.call("createDisk", { body: { ...order, name: "other" } }), {
    code: "source-lost",
  });
  await source.revive();
  await vm.setSpeed(null);
  while ((await vm.streamInfo()).state !== "completed") await sleep(20);
  const { events } = await daemon.client.call("listEvents", { query: { disk: "vm", limit: 100 } });
  const types = events.map(({ type }) => type);
  for (const type of ["source-lost", "job-waiting", "source-back", "hydrated"] as const)
    assert(types.includes(type), type);
});

test("what was known of a source is forgotten with it", async (t) => {
  const directory = temporaryDirectory(t);
  for (const name of ["images", "sockets"]) mkdirSync(join(directory, name));
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(MIB, 3));
  truncateSync(base, 2 * MIB);
  await using old = await DEATHS[0]!.start(base);
  await using moved = await DEATHS[0]!.start(base);
  await using store = new MemoryStore();
  await using daemon = await Daemon.start(store, {
    version: "0",
    imageDirectory: join(directory, "images"),
    socketDirectory: join(directory, "sockets"),
    machineDirectory: join(directory, "machines"),
    allow: [old.uri, moved.uri],
    allowKeys: [],
    sourceOptions: {},
    maxStreams: 4,
    keep: { events: 1000, jobs: 100 },
  });
  const order = { name: "vm", backing: old.uri, backingFormat: "raw" };
  await daemon.createDisk({ params: {}, query: {}, body: ROUTES.createDisk.body.parse(order) });
  const known = async () => (await store.disks())[0]?.known?.map(({ source }) => source);
  while ((await known()) === undefined) await sleep(20);
  assert.deepEqual(await known(), [old.uri]);
  const body = ROUTES.replaceSource.body.parse({ backing: moved.uri, backingFormat: "raw" });
  await daemon.replaceSource({ params: { disk: "vm" }, query: {}, body });
  while ((await known()) === undefined) await sleep(20);
  assert.deepEqual(await known(), [moved.uri]);
});

test("a server that gives no answer is waited for a while, and its answer taken when it comes", async (t) => {
  const directory = temporaryDirectory(t);
  const silent: Socket[] = [];
  const path = join(directory, "s");
  const server = createServer((socket) => silent.push(socket)).listen(path);
  t.after(() => server.close());
  const image = join(directory, "vm.qcow2");
  const uri = `nbd+unix:///?socket=${path}`;
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", uri, "-F", "raw", image, "1M");
  let error: StreamdiskError | undefined;
  const watch: LatePolicy["watch"] = (door, why) => {
    error = why;
    return door;
  };
  const late = { watch, patienceMs: 50 };
  const chain = await openChain({ file: image }, { allowBacking: [uri], late });
  assert.equal(error?.code, "source-lost");
  assert.match(error?.message ?? "", /has not answered for 50 ms/);
  const asked = assert.rejects(chain.node.read(0, new Uint8Array(512)), StreamdiskError);
  // One attempt is under way, and it is waited for.
  assert.equal(silent.length, 1);
  for (const socket of silent) socket.destroy();
  await asked;
  await chain.close();
});
