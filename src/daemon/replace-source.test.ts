/** A source that has moved is named anew: what is accepted in its place and what is not, for each way to reach one. */
import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { noise, temporaryDirectory } from "../../test/support/cli.ts";
import { serveRanges } from "../../test/support/http-server.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { startNbdkit } from "../../test/support/nbd-servers.ts";
import { type Disk, ROUTES } from "../api/index.ts";
import type { BlockNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { connectNbd } from "../nbd/index.ts";
import { Daemon } from "./daemon.ts";

const MIB = 2 ** 20;
const SIZE = 8 * MIB;
const OTHER_AT = 4096;
const TOKEN = "secret";

/** Somewhere to have a file from, until it is gone. */
interface Place {
  readonly reference: string;
  readonly gone: () => PromiseLike<void> | void;
}

const KINDS: Readonly<Record<string, (path: string) => Promise<Place>>> = {
  file: async (path) => ({ reference: path, gone: () => rmSync(path, { force: true }) }),
  nbd: async (path) => {
    const server = await startNbdkit(["-r", "file", path], { tcp: true });
    return { reference: server.uri, gone: () => server[Symbol.asyncDispose]() };
  },
  http: (path) => overHttp(path),
};

async function overHttp(path: string, etag?: string): Promise<Place> {
  const server = await serveRanges(TOKEN, 0, undefined, etag);
  return { reference: `${server.origin}${path}?token=${TOKEN}`, gone: () => server[Symbol.asyncDispose]() };
}

function withoutToken(reference: string): string {
  return reference.replace(`?token=${TOKEN}`, "");
}

/** A store that outlives its daemons, as one on a disk does. */
class LastingStore extends MemoryStore {
  override async close(): Promise<void> {}
}

class Bench {
  readonly directory: string;
  readonly content = noise(SIZE, 7);
  readonly store = new LastingStore();
  daemon!: Daemon;

  constructor(t: TestContext) {
    this.directory = temporaryDirectory(t);
    for (const name of ["images", "sockets", "sources"]) mkdirSync(join(this.directory, name));
  }

  async start(t: TestContext, ...places: Place[]): Promise<Daemon> {
    this.daemon = await Daemon.start(this.store, {
      version: "0",
      imageDirectory: join(this.directory, "images"),
      socketDirectory: join(this.directory, "sockets"),
      machineDirectory: join(this.directory, "machines"),
      allow: places.map(({ reference }) => withoutToken(reference)),
      allowKeys: [],
      sourceOptions: {},
      maxStreams: 4,
      keep: { events: 1000, jobs: 100 },
    });
    t.after(() => this.daemon.close());
    return this.daemon;
  }

  file(name: string, content: Uint8Array): string {
    const path = join(this.directory, "sources", name);
    writeFileSync(path, content);
    return path;
  }

  /** A disk of whose source all is known that there is to know. */
  async create(name: string, backing: string): Promise<Disk> {
    const body = ROUTES.createDisk.body.parse({ name, backing, backingFormat: "raw" });
    const disk = await this.daemon.createDisk({ params: {}, query: {}, body });
    for (;;) {
      const record = (await this.store.disks()).find((other) => other.name === name);
      if (record?.backingLength !== undefined && (record.known !== undefined || backing.startsWith("/"))) return disk;
      await sleep(10);
    }
  }

  async replace(name: string, backing: string, force = false): Promise<Disk> {
    const body = { backing, backingFormat: "raw", force } as const;
    return this.daemon.replaceSource({ params: { disk: name }, query: {}, body });
  }

  async refused(name: string, backing: string, message: RegExp): Promise<StreamdiskError> {
    const error = await this.replace(name, backing).then(
      () => assert.fail(`'${backing}' was accepted`),
      (reason: unknown) => reason,
    );
    assert(error instanceof StreamdiskError, String(error));
    assert.equal(error.code, "refused");
    assert.match(error.message, message);
    return error;
  }

  look(name: string): Promise<Disk> {
    return this.daemon.getDisk({ params: { disk: name }, query: {}, body: {} });
  }

  async stream(name: string, speed?: number): Promise<void> {
    const body = { priority: 0, ...(speed !== undefined && { speed }) };
    await this.daemon.startStream({ params: { disk: name }, query: {}, body });
  }

  async freed(): Promise<(string | undefined)[]> {
    const events = await this.store.events({ limit: 1000 });
    return events.filter(({ type }) => type === "source-free").map(({ source }) => source);
  }
}

/** Reads on and on, as a guest whose hypervisor connects again, and compares. @returns how often it has, when told to end */
async function readOn(uri: string, content: Uint8Array, signal: AbortSignal): Promise<number> {
  await using guest = await connectNbd(uri);
  const target = Buffer.alloc(4096);
  let reads = 0;
  for (; !signal.aborted; reads++) {
    const offset = (reads * 123 * 4096) % SIZE;
    while (!(await read(guest, offset, target))) await sleep(20);
    assert(target.equals(content.subarray(offset, offset + target.length)), `at ${offset}`);
    await sleep(2);
  }
  return reads;
}

/** @returns false while the disk is not served */
async function read(guest: BlockNode, offset: number, target: Uint8Array): Promise<boolean> {
  try {
    await guest.read(offset, target);
    return true;
  } catch (error) {
    if (error instanceof StreamdiskError && error.code === "source-lost") return false;
    throw error;
  }
}

for (const [kind, serve] of Object.entries(KINDS)) {
  test(`a source that has moved: ${kind}`, async (t) => {
    const bench = new Bench(t);
    const { content } = bench;
    const other = Buffer.from(content);
    other[OTHER_AT] = ~(other[OTHER_AT] ?? 0);
    const old = await serve(bench.file("old.raw", content));
    const places = {
      moved: await serve(bench.file("moved.raw", content)),
      other: await serve(bench.file("other.raw", other)),
      long: await serve(bench.file("long.raw", noise(SIZE + MIB, 8))),
    };
    t.after(async () => {
      for (const { gone } of Object.values(places)) await gone();
    });
    const daemon = await bench.start(t, old, ...Object.values(places));
    const { uri = "" } = await bench.create("vm", old.reference);
    await bench.create("forced", old.reference);
    const differs = new RegExp(`differs from the old one, '.*', at ${OTHER_AT}: `);
    assert.equal((await bench.refused("vm", places.other.reference, differs)).context.offset, OTHER_AT);

    await bench.stream("vm", MIB);
    const done = new AbortController();
    const reading = readOn(uri, content, done.signal);
    await sleep(200);
    await old.gone();
    const sizes = new RegExp(`has ${SIZE + MIB} bytes and the old one, '.*', ${SIZE}: `);
    await bench.refused("vm", places.long.reference, sizes);
    const { backing, warnings } = await bench.replace("vm", places.moved.reference);
    assert.equal(backing, withoutToken(places.moved.reference));
    assert(!warnings.some((warning) => warning.includes("the old one")));
    assert.deepEqual(await bench.freed(), []);
    await daemon.setSpeed({ params: { disk: "vm" }, query: {}, body: { speed: null } });
    while (!(await daemon.getDisk({ params: { disk: "vm" }, query: {}, body: {} })).hydrated) await sleep(20);
    done.abort();
    assert((await reading) > 0);

    await bench.refused("forced", places.long.reference, sizes);
    const forced = await bench.replace("forced", places.long.reference, true);
    assert.match(forced.warnings.join(), new RegExp(`has ${SIZE + MIB} bytes and the old one`));
    while ((await bench.freed()).length < 2) await sleep(20);
    const names = [places.moved, old].map(({ reference }) => withoutToken(reference));
    assert.deepEqual((await bench.freed()).sort(), names.sort());
  });
}

test("another version is accepted when what is here agrees with it, and not on its word", async (t) => {
  const bench = new Bench(t);
  const path = bench.file("base.raw", bench.content);
  const old = await overHttp(path, '"1"');
  const next = await overHttp(path, '"2"');
  t.after(next.gone);
  await bench.start(t, old, next);
  await bench.create("empty", old.reference);
  const { uri = "" } = await bench.create("used", old.reference);
  {
    await using guest = await connectNbd(uri);
    await guest.read(0, new Uint8Array(65536));
  }
  await old.gone();
  await bench.refused("empty", next.reference, /is of the version "2", and of "1" was the old one/);
  assert.doesNotMatch((await bench.replace("used", next.reference)).warnings.join(), /version/);
  assert.match((await bench.replace("empty", next.reference, true)).warnings.join(), /is of the version "2"/);
});

test("a source is replaced after a restart by what is remembered of it, and stays so after the next", async (t) => {
  const bench = new Bench(t);
  const old = await overHttp(bench.file("old.raw", bench.content));
  const places = {
    moved: await overHttp(bench.file("moved.raw", bench.content)),
    long: await overHttp(bench.file("long.raw", noise(SIZE + MIB, 8))),
  };
  t.after(async () => {
    for (const { gone } of Object.values(places)) await gone();
  });
  await bench.start(t, old, ...Object.values(places));
  const { uri = "" } = await bench.create("vm", old.reference);
  await bench.stream("vm", MIB);
  while ((await bench.look("vm")).stream?.copiedBytes === 0) await sleep(20);
  await bench.daemon.close();
  await old.gone();
  await bench.start(t, old, ...Object.values(places));
  await bench.refused("vm", places.long.reference, new RegExp(`has ${SIZE + MIB} bytes and the old one, .*${SIZE}: `));
  await bench.replace("vm", places.moved.reference);
  assert.deepEqual(await bench.freed(), [withoutToken(old.reference)]);
  const { stream } = await bench.look("vm");
  assert(stream !== undefined && stream.missingBytes > 0, "there is something left to fetch");
  await bench.daemon.close();
  const daemon = await bench.start(t, ...Object.values(places));
  assert.equal((await bench.look("vm")).backing, withoutToken(places.moved.reference));
  await daemon.setSpeed({ params: { disk: "vm" }, query: {}, body: { speed: null } });
  while (!(await bench.look("vm")).hydrated) await sleep(20);
  await using guest = await connectNbd(uri);
  const read = Buffer.alloc(SIZE);
  await guest.read(0, read);
  assert(read.equals(bench.content));
});
