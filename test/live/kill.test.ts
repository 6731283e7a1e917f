/**
 * kill -9 of a real `serve` in mid-stream, under a client that writes and comes back: what was acknowledged is there when it is served
 * again, flushed or not, since the guest lives on and its next flush would vouch for it. What was under way may have
 * happened or not, by the sector.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type ErrorCode, StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd, type NbdNode } from "../../src/nbd/index.ts";
import { cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { qemuCheck, qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng, sample } from "../support/seed.ts";
import { type RunningServe, startServe } from "../support/serve.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const SECTOR = 512;
const WRITERS = 4;
const KILLS = 2;
/** The MiB that the client writes to; the others are left to the stream. */
const WRITTEN = [1, 2, 6, 11, 12, 15];

const CELLS = [
  { name: "qcow2 v3", format: "qcow2", options: "compat=1.1" },
  { name: "qcow2 v3 of small clusters", format: "qcow2", options: "compat=1.1,cluster_size=4096" },
  { name: "qcow2 v3 of subclusters", format: "qcow2", options: "compat=1.1,extended_l2=on" },
  { name: "qcow2 v2", format: "qcow2", options: "compat=0.10" },
  { name: "QED", format: "qed", options: "cluster_size=64k" },
];

/** A write, under way or acknowledged. */
interface Write {
  readonly offset: number;
  readonly data: Buffer;
  readonly zeroes: boolean;
}

/** What a reader must see, and what it may see in its place. */
class Model {
  readonly content: Buffer;
  readonly underWay = new Set<Write>();
  acknowledged = 0;

  constructor(content: Buffer) {
    this.content = content;
  }

  /** A write that touches no sector that another one is at. */
  begin(random: Random): Write {
    for (;;) {
      const length = chance(random, 0.5) ? SECTOR * between(random, 1, 8) : between(random, 1, 100 * 1024);
      const offset = oneOf(random, WRITTEN) * MIB + below(random, MIB - length);
      if ([...this.underWay].some((other) => touches(other, offset, length))) continue;
      const zeroes = chance(random, 0.15);
      const data = zeroes ? Buffer.alloc(length) : noise(length, below(random, 2 ** 31));
      const write = { offset, data, zeroes };
      this.underWay.add(write);
      return write;
    }
  }

  acknowledge(write: Write): void {
    write.data.copy(this.content, write.offset);
    this.underWay.delete(write);
    this.acknowledged++;
  }

  /** Compares what is read after a death, and takes over what has become of the writes under way. */
  verify(read: Buffer, when: string): void {
    const possible = Buffer.from(this.content);
    for (const { offset, data } of this.underWay) data.copy(possible, offset);
    for (let at = 0; at < SIZE; at += SECTOR) {
      const sector = read.subarray(at, at + SECTOR);
      if (sector.equals(this.content.subarray(at, at + SECTOR))) continue;
      if (sector.equals(possible.subarray(at, at + SECTOR))) continue;
      assert.fail(`${when}, after ${this.acknowledged} acknowledged writes: the sector at ${at} is wrong`);
    }
    this.underWay.clear();
    read.copy(this.content);
  }
}

function touches({ offset, data }: Write, from: number, length: number): boolean {
  const first = (at: number): number => Math.floor(at / SECTOR);
  return first(from) <= first(offset + data.length - 1) && first(offset) <= first(from + length - 1);
}

/** Reads here and there until the server is gone. */
async function readOn(node: NbdNode, random: Random): Promise<void> {
  for (;;) {
    try {
      await node.read(below(random, SIZE - 4096), new Uint8Array(4096));
    } catch (error) {
      assert(isError(error, "source-lost"), `${error}`);
      return;
    }
    await sleep(5);
  }
}

/** Writes until the server is gone. */
async function writeOn(node: NbdNode, model: Model, random: Random): Promise<void> {
  for (;;) {
    const write = model.begin(random);
    try {
      if (write.zeroes) await node.writeZeroes(write.offset, write.data.length);
      else await node.write(write.offset, write.data);
    } catch (error) {
      assert(isError(error, "source-lost"), `${error}`);
      return;
    }
    model.acknowledge(write);
  }
}

function isError(error: unknown, code: ErrorCode): boolean {
  return error instanceof StreamdiskError && error.code === code;
}

async function contentOf(node: NbdNode): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await node.read(0, bytes);
  return bytes;
}

interface Setting {
  readonly directory: string;
  readonly image: string;
  readonly socket: string;
  readonly model: Model;
}

function makeSetting(t: TestContext, format: string, options: string): Setting {
  const directory = temporaryDirectory(t);
  const content = noise(SIZE, 7);
  for (let at = MIB; at < SIZE; at += 2 * MIB) content.fill(0, at, at + MIB / 2);
  const base = join(directory, "base.raw");
  const image = join(directory, `vm.${format}`);
  writeFileSync(base, content);
  qemuImg("create", "-q", "-f", format, "-o", options, "-b", base, "-F", "raw", image);
  return { directory, image, socket: join(directory, "sock"), model: new Model(content) };
}

/**
 * Serves until it is killed at a random moment, in the middle of the stream. The acknowledged writes so far must be there at its
 * beginning; a look at everything would leave nothing to stream, so in each second round what is read is kept, and
 * little of it is read.
 */
async function serveAndKill(setting: Setting, random: Random, round: number): Promise<void> {
  const { image, socket, model } = setting;
  const keeps = round % 2 === 1;
  const keeping = keeps ? [] : ["--no-copy-on-read"];
  const { serve, uri } = await startServe([image, "--socket", socket, "--stream", "--speed", "1M", ...keeping]);
  try {
    const node = await connectNbd(uri);
    await node.flush();
    if (!keeps) model.verify(await contentOf(node), `kill ${round}`);
    const guests = Array.from({ length: WRITERS }, () => writeOn(node, model, random));
    if (keeps) guests.push(readOn(node, random));
    await sleep(between(random, 20, 300));
    assert.equal((await serve.stop("SIGKILL")).killedBy, "SIGKILL");
    await Promise.all(guests);
    // Our client won't vouch for what was not flushed. QEMU's would, and goes on.
    await node.close().catch((error: unknown) => assert(isError(error, "changed"), `${error}`));
  } finally {
    await serve.stop("SIGKILL");
  }
}

/** Serves until the stream is through, under a client that writes. @returns what the stream had to do yet */
async function serveToTheEnd(setting: Setting, random: Random): Promise<number> {
  const { image, socket, model } = setting;
  const args = [image, "--socket", socket, "--stream", "--speed", "16M", "--no-copy-on-read"];
  const { serve, uri } = await startServe(args);
  try {
    const { info } = await serve.event("serving");
    await using node = await connectNbd(uri);
    await node.flush();
    model.verify(await contentOf(node), "after the last kill");
    let over = false;
    const hydrated = serve.event("hydrated").finally(() => {
      over = true;
    });
    hydrated.catch(() => {});
    while (!over) {
      const write = model.begin(random);
      await node.write(write.offset, write.data);
      model.acknowledge(write);
    }
    await hydrated;
    model.verify(await contentOf(node), "after the stream");
    assert.equal(failures(serve), 0);
    return info?.missingBytes ?? 0;
  } finally {
    await serve.stop();
  }
}

function failures(serve: RunningServe): number {
  return serve.lines.filter((line) => (JSON.parse(line) as { event: string }).event === "stream-failed").length;
}

async function run(t: TestContext, cell: (typeof CELLS)[number], round: number): Promise<string> {
  const random = rng(`kill ${cell.name} ${round}`);
  const setting = makeSetting(t, cell.format, cell.options);
  const { directory, image, model } = setting;
  for (let kill = 0; kill < KILLS; kill++) await serveAndKill(setting, random, kill);
  const missing = await serveToTheEnd(setting, random);
  assert(model.acknowledged > KILLS, "the client wrote in between");
  assert(missing > MIB, "the stream was killed in its middle");
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, model.content);
  // A death may leak clusters, no more than that.
  const { corruptions = 0, "check-errors": errors } = qemuCheckStatus(image, cell.format);
  assert.deepEqual({ corruptions, errors }, { corruptions: 0, errors: 0 });
  await cliOk(["check", image, "--repair", "leaks"]);
  qemuCheck(image, cell.format);
  qemuImg("compare", "-q", "-f", cell.format, "-F", "raw", image, expected);
  const info = JSON.parse(qemuImg("info", "-f", cell.format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
  return `${model.acknowledged} writes acknowledged, ${missing} bytes left to stream`;
}

for (const cell of sample("kill", CELLS, 3)) {
  test(`every acknowledged write survives kill -9 of serve, ${cell.name}`, async (t) => {
    const rounds = pick(1, 13);
    for (let round = 0; round < rounds; round++) t.diagnostic(await run(t, cell, round));
    t.diagnostic(`cells ${rounds * KILLS}`);
  });
}
