/** New disks for a guest: an image of a shape, mostly over a base that is as long, shorter or longer. */
import type { FormatName } from "../../src/formats/index.ts";
import { createFormat } from "../../src/formats/index.ts";
import { between, chance, oneOf, type Random } from "../support/draw.ts";
import { FileBytes, SECTOR } from "../support/file-bytes.ts";
import { Journal } from "../support/journal.ts";
import { AT_ONCE, RecordingNode } from "../support/recording-node.ts";
import { Base, type Disk } from "./disk.ts";

export interface Shape {
  readonly name: string;
  readonly format: FormatName;
  readonly options: Readonly<Record<string, string>>;
  /** Virtual size in sectors, about. */
  readonly sectors: number;
}

/** A disk without anything of its own yet. */
export async function newDisk(shape: Shape, random: Random): Promise<Disk> {
  const sectors = Math.max(16, Math.floor(shape.sectors * (0.3 + random() * 0.9)));
  const base = chance(random, 0.8) ? makeBase(sectors, random) : undefined;
  const bytes = new FileBytes();
  const file = new RecordingNode({ bytes, journal: new Journal(), scheduler: AT_ONCE });
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
    base,
    bytes,
    records: [],
    logged: chance(random, 0.75),
    value: (sector) => (sector < sectors ? (base?.valueOf(sector) ?? 0) : 0),
    lengths: [sectors * SECTOR],
    linked: [base !== undefined],
  };
}

function makeBase(sectors: number, random: Random): Base {
  const length = Math.max(1, Math.floor(sectors * oneOf(random, [1, 1, 0.4 + random() * 0.5, 1.2]))) * SECTOR;
  const period = between(random, 2, 600);
  const share = oneOf(random, [0, 0.3, 0.7]);
  return new Base(length, (sector) => (Math.imul(Math.floor(sector / period), 0x9e3779b1) >>> 0) / 2 ** 32 < share);
}
