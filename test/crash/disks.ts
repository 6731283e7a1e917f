/** New disks for a guest: an image of a shape, mostly over a base that is as long, shorter or longer. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FormatName } from "../../src/formats/index.ts";
import { createFormat } from "../../src/formats/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { FileBytes, SECTOR } from "../support/file-bytes.ts";
import { qemuImg } from "../support/qemu.ts";
import { RecordingNode } from "../support/recording-node.ts";
import { type Content, readSectors, sectorsOf } from "../support/sector-content.ts";
import { Base, type Disk, openDisk } from "./disk.ts";

/** Numbers of writes before the test. */
const EARLIER = 50_000_000;

export interface Shape {
  readonly name: string;
  readonly format: FormatName;
  readonly options: Readonly<Record<string, string>>;
  /** Virtual size in sectors, about. */
  readonly sectors: number;
  /** What qemu-img makes of it, once a guest has written some: clusters compressed, a snapshot taken. */
  readonly compressed?: boolean;
  readonly snapshot?: boolean;
}

/** A disk without anything of its own yet. */
async function newDisk(shape: Shape, random: Random): Promise<Disk> {
  const sectors = Math.max(16, Math.floor(shape.sectors * (0.3 + random() * 0.9)));
  const base = chance(random, 0.8) ? makeBase(sectors, random) : undefined;
  const bytes = new FileBytes();
  const file = new RecordingNode({ bytes });
  await createFormat(shape.format, file, {
    size: sectors * SECTOR,
    options: shape.options,
    ...(base !== undefined && { backing: { reference: "base.raw", format: "raw" } }),
  });
  const counted = shape.format === "qcow2" && shape.options.compat !== "v2";
  return {
    format: shape.format,
    closesWithoutLeaks: counted,
    lazyCounts: counted,
    resizable: counted || shape.snapshot !== true,
    base,
    bytes,
    records: [],
    logged: chance(random, 0.75),
    value: (sector) => (sector < sectors ? (base?.valueOf(sector) ?? 0) : 0),
    lengths: [sectors * SECTOR],
    linked: [base !== undefined],
    snapshot: undefined,
  };
}

/** The disk of a run. */
export async function makeDisk(shape: Shape, random: Random, directory: string): Promise<Disk> {
  const disk = await newDisk(shape, random);
  if (shape.snapshot !== true && shape.compressed !== true) return disk;
  const content = await writeSome(disk, random);
  const image = join(directory, "first.qcow2");
  writeFileSync(image, disk.bytes.view());
  if (disk.base !== undefined) writeFileSync(join(directory, "base.raw"), disk.base.bytes);
  let result = image;
  if (shape.compressed === true) {
    result = join(directory, "compressed.qcow2");
    const link = disk.base === undefined ? [] : ["-B", "base.raw", "-F", "raw"];
    const options = Object.entries(shape.options).map(([name, value]) => `${name}=${value}`);
    qemuImg("convert", "-c", "-O", "qcow2", ...link, "-o", options.join(","), image, result);
  }
  if (shape.snapshot === true) qemuImg("snapshot", "-c", "first", result);
  return {
    ...disk,
    bytes: new FileBytes(readFileSync(result)),
    value: (sector) => content[sector] ?? 0,
    snapshot: shape.snapshot === true ? content : undefined,
  };
}

/** A guest's writes and zeroes here and there, and what is there then. */
async function writeSome(disk: Disk, random: Random): Promise<Content> {
  const file = new RecordingNode({ bytes: disk.bytes });
  await using node = await openDisk(disk, file);
  const sectors = node.length / SECTOR;
  for (let value = EARLIER; value < EARLIER + 20; value++) {
    const first = below(random, sectors);
    const count = Math.min(sectors - first, between(random, 1, Math.ceil(sectors / 15)));
    if (chance(random, 0.8)) await node.write(first * SECTOR, sectorsOf(value, first, count));
    else await node.writeZeroes(first * SECTOR, count * SECTOR);
  }
  const bytes = new Uint8Array(node.length);
  await node.read(0, bytes);
  return readSectors(bytes, 0);
}

function makeBase(sectors: number, random: Random): Base {
  const length = Math.max(1, Math.floor(sectors * oneOf(random, [1, 1, 0.4 + random() * 0.5, 1.2]))) * SECTOR;
  const period = between(random, 2, 600);
  const share = oneOf(random, [0, 0.3, 0.7]);
  return new Base(length, (sector) => (Math.imul(Math.floor(sector / period), 0x9e3779b1) >>> 0) / 2 ** 32 < share);
}
