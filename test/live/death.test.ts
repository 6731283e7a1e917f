/**
 * The source dies while a guest runs and a stream is under way: what dies how, at which policy, how far on. Reads of what only
 * the source has get what the policy says; local data and what the source has said is zero are answered throughout; no
 * byte is wrong; nothing that was fetched is lost; and when the source is back all goes on by itself.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, ftruncateSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseSourcePolicy } from "../../src/cli/source-policy.ts";
import { type ServedDisk, serveDisk } from "../../src/engine/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd, type NbdNode, parseNbdUri } from "../../src/nbd/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { type NbdServerProcess, startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const KIB64 = 65536;
const SIZE = 48 * MIB;
/** Every even MiB. */
const DATA = SIZE / 2;

interface Source {
  readonly server: NbdServerProcess;
  readonly base: string;
  /** While it is there, the server answers each request with EIO. */
  readonly errorFile: string;
  /** Listens in the server's place, and hangs up on whoever comes. */
  refuser?: Server;
}

/** How a source dies, and comes back. */
interface Death {
  readonly name: string;
  die(source: Source): Promise<void>;
  /** Absent: never. */
  revive?(source: Source): Promise<void>;
}

const DEATHS: readonly Death[] = [
  {
    name: "killed",
    die: ({ server }) => server.stop("SIGKILL"),
    revive: ({ server }) => server.start(),
  },
  {
    name: "frozen",
    async die({ server }) {
      server.signal("SIGSTOP");
    },
    async revive({ server }) {
      server.signal("SIGCONT");
    },
  },
  {
    name: "refusing",
    async die(source) {
      await source.server.stop("SIGKILL");
      const address = parseNbdUri(source.server.uri);
      assert(address.unix);
      rmSync(address.socket, { force: true });
      source.refuser = createServer((socket) => socket.destroy()).listen(address.socket);
      await once(source.refuser, "listening");
    },
    async revive({ server, refuser }) {
      await new Promise((resolve) => refuser?.close(resolve));
      await server.start();
    },
  },
  {
    name: "answering EIO",
    async die({ errorFile }) {
      writeFileSync(errorFile, "");
    },
    async revive({ errorFile }) {
      rmSync(errorFile);
    },
  },
  {
    name: "changed",
    async die({ server, base }) {
      await server.stop("SIGKILL");
      truncateSync(base, SIZE - MIB);
      await server.start();
    },
  },
];

const POLICIES = ["hold", "hold:1500ms,error", "error", "hold:500ms,pause"];

const CELLS = DEATHS.flatMap((death) =>
  POLICIES.flatMap((policy) => [10, 50, 90].map((percent) => ({ death, policy, percent }))),
);

type Cell = (typeof CELLS)[number];

/** What became of a read. */
type Outcome = "right" | "error";

/** A disk that is served, its guest, and what the guest must see. */
class Scene {
  readonly disk: ServedDisk;
  readonly guest: NbdNode;
  readonly model: Buffer;
  readonly events: string[] = [];

  constructor(disk: ServedDisk, guest: NbdNode, model: Buffer) {
    this.disk = disk;
    this.guest = guest;
    this.model = model;
    disk.on("source", ({ state }) => this.events.push(state));
    disk.on("pause", () => this.events.push("pause"));
    disk.on("stream-failed", ({ code }) => this.events.push(`stream: ${code}`));
  }

  async read(offset: number, length: number): Promise<Outcome> {
    const bytes = Buffer.alloc(length);
    try {
      await this.guest.read(offset, bytes);
    } catch (error) {
      assert(error instanceof StreamdiskError && error.code === "io", `${error}`);
      return "error";
    }
    assert(bytes.equals(this.model.subarray(offset, offset + length)), `wrong bytes at ${offset}`);
    return "right";
  }

  /** What needs no source: the guest's own bytes, what was streamed first, and a hole of the base, beyond all that is local. */
  async readLocal(): Promise<void> {
    const places = [SIZE - MIB + 4096, 8192, SIZE - MIB / 2];
    for (const place of places) assert.equal(await this.read(place, 4096), "right", `local read at ${place}`);
    await this.guest.write(SIZE - MIB + 8192, this.model.subarray(SIZE - MIB + 8192, SIZE - MIB + 16384));
    await this.guest.flush();
  }

  async until(condition: () => Promise<boolean> | boolean, what: string): Promise<void> {
    // Long for any machine: it only ends a test that would hang.
    for (let i = 0; i < 1500; i++) {
      if (await condition()) return;
      await sleep(20);
    }
    assert.fail(`never ${what}; it said ${this.events.join(", ")}, ${JSON.stringify(await this.disk.info())}`);
  }
}

/** Each even MiB is data, the others are holes. */
function makeBase(path: string): Buffer {
  const content = Buffer.alloc(SIZE);
  const file = openSync(path, "w");
  ftruncateSync(file, SIZE);
  for (let at = 0; at < SIZE; at += 2 * MIB) {
    noise(MIB, at + 5).copy(content, at);
    writeSync(file, content, at, MIB, at);
  }
  closeSync(file);
  return content;
}

async function run(t: TestContext, { death, policy, percent }: Cell): Promise<void> {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const model = makeBase(base);
  const errorFile = join(directory, "errors");
  await using server = await startNbdkit([
    ...["--filter=error", "file", base, "error=EIO", "error-pread-rate=100%", `error-file=${errorFile}`],
  ]);
  const source: Source = { server, base, errorFile };
  t.after(() => source.refuser?.close());
  const image = join(directory, "vm.qcow2");
  await using disk = await serveDisk({
    ...{ image, create: true, backing: server.uri, backingFormat: "raw" },
    onSourceError: parseSourcePolicy(policy),
  });
  await using guest = await connectNbd(disk.uri);
  const scene = new Scene(disk, guest, model);
  const written = noise(KIB64, 99);
  written.copy(model, SIZE - MIB);
  await guest.write(SIZE - MIB, written);

  for (let copied = 0; copied < (DATA * percent) / 100; ) copied += (await disk.step({ length: MIB })).copied;
  // A chunk of it is on its way when the source dies, and no more than one.
  await disk.stream({ speed: 1 });
  const atDeath = await disk.info();
  assert(!atDeath.hydrated && atDeath.missingBytes > 0);
  await death.die(source);
  await disk.setSpeed(undefined);
  await beDead(scene, policy, death, source);
  const dead = await disk.info();
  assert(dead.missingBytes <= atDeath.missingBytes, "what was fetched stays");
  await scene.readLocal();

  if (death.revive === undefined) {
    await scene.until(() => scene.events.includes("stream: changed"), "a stream that failed");
    assert.deepEqual([dead.hydrated, (await disk.info()).source.state], [false, "changed"]);
    await disk.close();
    qemuCheck(image, "qcow2");
    return;
  }
  await scene.until(async () => (await disk.info()).hydrated, "hydrated");
  for (let at = 0; at < SIZE; at += MIB) assert.equal(await scene.read(at, MIB), "right");
  await guest.close();
  await disk.close();
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, model);
  qemuCheck(image, "qcow2");
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, expected);
}

/** What a guest meets while the source is dead. The last bytes of the base are missing: the stream goes from front to back. */
async function beDead(scene: Scene, policy: string, death: Death, source: Source): Promise<void> {
  const places = [1, 2, 3].map((back) => SIZE - MIB - back * KIB64);
  const settled: Outcome[] = [];
  const reads = places.map(async (place) => {
    settled.push(await scene.read(place, 4096));
  });
  const { disk } = scene;
  await scene.readLocal();
  if (death.name === "frozen") {
    // It may answer yet: nobody is told anything before its time is over, and then it is as if it had been slow.
    await sleep(300);
    await scene.readLocal();
    assert.deepEqual([settled, scene.events], [[], []]);
  } else if (death.name === "changed") {
    await Promise.all(reads);
    assert.deepEqual(settled, ["error", "error", "error"]);
    return;
  } else {
    await scene.until(async () => (await disk.info()).source.state === "lost", "lost");
    await scene.until(async () => (await disk.info()).stream?.state === "waiting", "a stream that waits");
    assert.equal((await disk.info()).stream?.reason?.code, "source-lost");
    if (policy === "hold") {
      await sleep(300);
      assert.equal((await disk.info()).source.held, 3);
      assert.deepEqual(settled, []);
    } else {
      // Patience ends while the source is dead, once for all: a read that comes later is not held.
      await Promise.all(reads);
      assert.deepEqual(settled, ["error", "error", "error"]);
      assert.equal(await scene.read(places[0] as number, 4096), "error");
      assert.equal((await disk.info()).source.held, 0);
    }
    assert.equal(scene.events.includes("pause"), policy.endsWith("pause"));
    await scene.readLocal();
  }
  await death.revive?.(source);
  await Promise.all(reads);
  if (policy === "hold" || death.name === "frozen") assert.deepEqual(settled, ["right", "right", "right"]);
}

for (const cell of sample("death", CELLS, 5)) {
  const { death, policy, percent } = cell;
  test(`a source that is ${death.name} at ${percent} %, ${policy}`, (t) => run(t, cell));
}
