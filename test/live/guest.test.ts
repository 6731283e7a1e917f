/**
 * A real guest on a disk whose base is far away: it reads and writes while the stream runs to its end and the link is dropped
 * under it. Whatever it reads is what it wrote or what the base has, and so is the image after it was powered off.
 */
import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { serveDisk } from "../../src/engine/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { act } from "../support/guest/acts.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { serveRanges } from "../support/http-server.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng, sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 24 * MIB;

const SPEED = 4 * MIB;
const AWAY_MS = 20;

const OVER_NBD = [
  { format: "qcow2", copyOnRead: true, by: "NBD" },
  { format: "qed", copyOnRead: true, by: "NBD" },
  { format: "qcow2", copyOnRead: false, by: "NBD" },
] as const;
const OVER_HTTP = [
  { format: "qcow2", copyOnRead: true, by: "HTTP" },
  { format: "qed", copyOnRead: true, by: "HTTP" },
] as const;

type Cell = (typeof OVER_NBD)[number] | (typeof OVER_HTTP)[number];

interface Source extends AsyncDisposable {
  readonly uri: string;
}

async function startSource(by: Cell["by"], base: string): Promise<Source> {
  if (by === "NBD") return await startNbdkit(["--filter=delay", "file", base, `rdelay=${AWAY_MS}ms`]);
  const server = await serveRanges("open", AWAY_MS);
  return { uri: `${server.origin}${base}?token=open`, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** Half noise, half holes. */
function makeBase(path: string): Buffer {
  const content = noise(SIZE, 11);
  for (let at = MIB; at < SIZE; at += 2 * MIB) content.fill(0, at, at + MIB);
  writeFileSync(path, content);
  return content;
}

async function run(t: TestContext, { format, copyOnRead, by }: Cell): Promise<void> {
  const random = rng(`guest ${format} ${copyOnRead} ${by}`);
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const model = makeBase(base);
  await using source = await startSource(by, base);
  const image = join(directory, `vm.${format}`);
  await using disk = await serveDisk({
    ...{ image, format, copyOnRead, create: true, backing: source.uri, backingFormat: "raw" },
  });
  const booted = await Guest.boot(makeBootFiles(directory), disk.qemuArgs());
  await using guest = booted.guest;
  assert.equal(booted.diskBytes, SIZE);

  let acts = 0;
  const doSome = async (many: number): Promise<void> => {
    for (let i = 0; i < many; i++) await act(guest, model, random, ++acts);
  };
  await doSome(5);
  const before = await disk.info();
  assert(before.missingBytes > SIZE / 2 && !before.hydrated, "the stream has something to do");
  await disk.stream({ speed: SPEED });
  let over = false;
  const hydrated = disk.hydrated().finally(() => {
    over = true;
  });
  hydrated.catch(() => {});
  const actsBefore = acts;
  while (!over) await doSome(1);
  await hydrated;
  const during = acts - actsBefore;
  assert(during > 3, `the guest did ${during} things while the stream ran`);

  // The source is not needed any more.
  await source[Symbol.asyncDispose]();
  rmSync(base);
  await doSome(15);
  const after = await disk.info();
  assert.deepEqual([after.hydrated, after.missingBytes, after.source.state], [true, 0, "none"]);
  await guest.powerOff();
  await disk.close();

  const expected = join(directory, "expected.raw");
  writeFileSync(expected, model);
  qemuCheck(image, format);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
  t.diagnostic(`${acts} acts of the guest, ${during} of them while the stream ran`);
}

for (const cell of [...sample("guest", OVER_NBD, 1), ...sample("guest over HTTP", OVER_HTTP, 1)]) {
  const { format, by, copyOnRead } = cell;
  const how = copyOnRead ? "" : ", without copy-on-read";
  test(`a real guest on ${format} over a source that is ${AWAY_MS} ms away by ${by}${how}`, (t) => run(t, cell));
}
