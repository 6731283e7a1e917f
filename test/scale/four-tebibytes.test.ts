/**
 * Disks of 4 TiB with little in them: 64 MiB of data in scattered places, or 2 GiB when every cell is run. All that is done
 * to them takes memory that does not grow with the disk, the file does not either, and nothing reads the 4 TiB (which would take
 * longer than any test may).
 *
 * It is the built program that is measured: to strip the types at run time would take 30 MiB more.
 */
import assert from "node:assert/strict";
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { measure } from "../../bench/child.ts";
import { buildProgram } from "../support/built-program.ts";
import { noise } from "../support/cli.ts";
import { below, oneOf } from "../support/draw.ts";
import { mustCompare, qemuCheck } from "../support/peer-images.ts";
import { qemuImg, qemuIo } from "../support/qemu.ts";
import { pick, rng } from "../support/seed.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const SIZE = 4 * 2 ** 40;
const DATA = pick(64, 2048) * MIB;
const CLUSTER = 64 * KIB;
const MOST_MEMORY = 150 * MIB;
const LENGTHS = [4, 64, 256, 1024, 4096].map((kibibytes) => kibibytes * KIB);
/** What the guest has written before: the first cluster, one in the middle, the last. */
const WRITTEN = [0, SIZE / 2, SIZE - CLUSTER];

const directory = mkdtempSync(join(tmpdir(), "streamdisk-scale-"));
after(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string): string => join(directory, name);
let program: string;

/** Clusters in which the base has data. */
const dataClusters = new Set<number>();
const written = new Set(WRITTEN.map((offset) => offset / CLUSTER));

before(() => {
  const free = statfsSync(directory);
  // A base, a second in qcow2, and one overlay at a time.
  const needed = 4 * DATA + 2 ** 30;
  assert.ok(free.bavail * free.bsize > needed, `'${directory}' lies where there is no room for ${needed} bytes`);
  program = buildProgram(at("program"));
  makeBase(at("base.raw"));
  qemuImg("convert", "-f", "raw", "-O", "qcow2", at("base.raw"), at("base.qcow2"));
});

/** Data in places of many sizes all over the disk, not aligned to clusters. */
function makeBase(path: string): void {
  const random = rng("scale");
  const mean = LENGTHS.reduce((sum, length) => sum + length) / LENGTHS.length;
  const slot = Math.floor(SIZE / (DATA / mean) / CLUSTER) * CLUSTER;
  const file = openSync(path, "wx");
  ftruncateSync(file, SIZE);
  for (let start = 0; start < SIZE; start += slot) {
    const length = oneOf(random, LENGTHS);
    const offset = Math.min(start + below(random, slot / 4096) * 4096, SIZE - length);
    writeSync(file, noise(length, offset / 4096 + 1), 0, length, offset);
    const last = Math.floor((offset + length - 1) / CLUSTER);
    for (let cluster = Math.floor(offset / CLUSTER); cluster <= last; cluster++) dataClusters.add(cluster);
  }
  closeSync(file);
}

/** What each command took at its peak. */
const memory: string[] = [];

/** Runs a command of the built program within the memory that it may take. @returns what it printed */
async function streamdisk(...args: readonly string[]): Promise<string> {
  const { peak, output } = await measure([process.execPath, program, ...args]);
  const took = `${args[0]} took ${Math.round(peak / MIB)} MiB`;
  assert.ok(peak > 0 && peak < MOST_MEMORY, took);
  memory.push(took);
  return output;
}

async function info(image: string): Promise<Record<string, unknown>> {
  return JSON.parse(await streamdisk("info", "--json", image)) as Record<string, unknown>;
}

interface Cell {
  readonly format: "qcow2" | "qed";
  readonly base: "raw" | "qcow2";
  /** Bytes of an L2 table, and the guest bytes that it speaks of. */
  readonly table: number;
  readonly span: number;
}

const CELLS: readonly Cell[] = [
  { format: "qcow2", base: "raw", table: CLUSTER, span: 512 * MIB },
  { format: "qcow2", base: "qcow2", table: CLUSTER, span: 512 * MIB },
  { format: "qed", base: "raw", table: 4 * CLUSTER, span: 2048 * MIB },
];

for (const { format, base, table, span } of CELLS) {
  test(`${format} over ${base}`, async (t) => {
    const image = at(`vm.${format}`);
    const before = at(`before.${format}`);
    qemuImg("create", "-q", "-f", format, "-b", `base.${base}`, "-F", base, image);
    const writes = WRITTEN.map((offset) => `write -P 17 ${offset} ${CLUSTER}`);
    qemuIo(image, writes, "-f", format);
    copyFileSync(image, before);

    const missing = [...dataClusters].filter((cluster) => !written.has(cluster)).length * CLUSTER;
    const local = written.size * CLUSTER;
    const figures = (data: number, lacks: number) => ({
      "virtual-size": SIZE,
      "local-bytes": data,
      "zero-bytes": SIZE - data - lacks,
      "missing-bytes": lacks,
    });
    assert.partialDeepStrictEqual(await info(image), figures(local, missing));

    await streamdisk("stream", image);
    const complete = await info(image);
    assert.partialDeepStrictEqual(complete, figures(local + missing, 0));
    assert.equal(complete["backing-filename"], undefined);
    assert.equal(qemuCheck(image, format)["allocated-clusters"], (local + missing) / CLUSTER);
    qemuImg("compare", "-f", format, "-F", format, image, before);

    const clusters = [...dataClusters, ...written];
    const tables = new Set(clusters.map((cluster) => Math.floor((cluster * CLUSTER) / span))).size;
    const most = local + missing + tables * table + MIB;
    const { size, blocks } = statSync(image);
    assert.ok(Math.max(size, blocks * 512) <= most, `the file has ${size} bytes and takes ${blocks * 512} of ${most}`);

    const map = JSON.parse(await streamdisk("map", "--json", image)) as { data: boolean; length: number }[];
    const mapped = map.filter(({ data }) => data).reduce((sum, { length }) => sum + length, 0);
    assert.equal(mapped, local + missing);
    await streamdisk("check", image);
    assert.match(await streamdisk("compare", image, before), /identical/);
    await streamdisk("convert", "--format", "raw", image, at("out.raw"));
    mustCompare(image, format, at("out.raw"));
    t.diagnostic(memory.splice(0).join(", "));
    for (const file of [image, before, at("out.raw")]) rmSync(file);
  });
}
