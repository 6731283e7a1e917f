/** The kinds of image that the model test goes through, and how each begins. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import "../support/zlib-at-once.ts";
import type { OpenFormatOptions } from "../../src/formats/index.ts";
import { createFormat, type FormatName, type MappedFormatNode, openFormat } from "../../src/formats/index.ts";
import { below, between, type Random } from "../support/draw.ts";
import { FileBytes } from "../support/file-bytes.ts";
import { qemuImg } from "../support/qemu.ts";
import { RecordingNode } from "../support/recording-node.ts";
import type { Scheduler } from "../support/scheduler.ts";

export const BACKINGS = ["alone", "over a shorter base", "over a base", "over a longer base"] as const;
/** `compressed` and `snapshot`: by qemu-img, after some writes. */
export const BEGINNINGS = ["empty", "compressed", "snapshot"] as const;

export interface Cell {
  readonly name: string;
  readonly format: FormatName;
  readonly options: Readonly<Record<string, string>>;
  /** Virtual size in bytes, about. */
  readonly size: number;
  readonly backing: (typeof BACKINGS)[number];
  readonly beginning: (typeof BEGINNINGS)[number];
}

const KIB = 1024;
const MIB = 1024 * KIB;

type Row = readonly [FormatName, Readonly<Record<string, string>>, size: number];

const SHAPES: readonly Row[] = [
  ["qed", { cluster_size: "4K", table_size: "2" }, 5 * MIB],
  ["qed", { cluster_size: "64K", table_size: "2" }, 2 * MIB],
  ["qcow2", { cluster_size: "512" }, 300 * KIB],
  ["qcow2", { cluster_size: "512", compat: "v2" }, 300 * KIB],
  ["qcow2", { cluster_size: "4K", lazy_refcounts: "on" }, 3 * MIB],
  ["qcow2", { cluster_size: "4K", compat: "v2" }, 3 * MIB],
  ["qcow2", { cluster_size: "64K", compression_type: "zstd", refcount_bits: "64" }, 2 * MIB],
  ["qcow2", { cluster_size: "64K", compat: "v2" }, 2 * MIB],
  ["qcow2", { cluster_size: "2M" }, 5 * MIB],
  ["qcow2", { cluster_size: "2M", compat: "v2" }, 5 * MIB],
  ["qcow2", { cluster_size: "16K", extended_l2: "on" }, 1 * MIB],
  ["qcow2", { cluster_size: "64K", extended_l2: "on", compression_type: "zstd" }, 2 * MIB],
  ["qcow2", { cluster_size: "2M", extended_l2: "on" }, 5 * MIB],
];

export const cells: readonly Cell[] = SHAPES.flatMap(([format, options, size]) =>
  BACKINGS.flatMap((backing) =>
    BEGINNINGS.filter((beginning) => format === "qcow2" || beginning === "empty").map((beginning) => {
      const said = Object.entries(options).map(([name, value]) => `${name}=${value}`);
      return { name: [format, ...said, backing, beginning].join(" "), format, options, size, backing, beginning };
    }),
  ),
);

/** An image as a run finds it. */
export interface Beginning {
  readonly cell: Cell;
  readonly file: FileBytes;
  readonly base: Uint8Array | undefined;
  /** What a reader sees. */
  readonly content: Uint8Array;
}

export async function makeBeginning(cell: Cell, directory: string, random: Random): Promise<Beginning> {
  const size = Math.ceil((cell.size * (0.6 + random() * 0.4)) / 512) * 512;
  const base = makeBase(cell, size, random);
  const file = new FileBytes();
  await createFormat(cell.format, new RecordingNode({ bytes: file }), {
    size,
    options: cell.options,
    ...(base !== undefined && { backing: { reference: "base.raw", format: "raw" } }),
  });
  const content = new Uint8Array(size);
  content.set((base ?? new Uint8Array(0)).subarray(0, size));
  if (cell.beginning === "empty") return { cell, file, base, content };

  await using image = await openCell({ cell, base }, file, { readOnly: false });
  for (let write = 0; write < 8; write++) {
    const offset = below(random, size);
    const bytes = patterned(between(random, 1, Math.min(size - offset, Math.ceil(size / 6))), write + 1);
    await image.write(offset, bytes);
    content.set(bytes, offset);
  }
  await image.close();
  return { cell, file: letQemuChange(cell, file, base, directory), base, content };
}

function letQemuChange(cell: Cell, file: FileBytes, base: Uint8Array | undefined, directory: string): FileBytes {
  const path = join(directory, "beginning.qcow2");
  writeFileSync(path, file.view());
  if (base !== undefined) writeFileSync(join(directory, "base.raw"), base);
  if (cell.beginning === "snapshot") {
    qemuImg("snapshot", "-c", "first", path);
    return new FileBytes(readFileSync(path));
  }
  const compressed = join(directory, "compressed.qcow2");
  const options = Object.entries(cell.options).map(([name, value]) => `${name}=${value}`);
  const link = base === undefined ? [] : ["-B", "base.raw", "-F", "raw"];
  qemuImg("convert", "-c", "-O", "qcow2", ...link, "-o", options.join(","), path, compressed);
  return new FileBytes(readFileSync(compressed));
}

/** A backing file: bytes that say where they lie, with holes, and an end that is no multiple of anything. */
function makeBase({ backing }: Cell, size: number, random: Random): Uint8Array | undefined {
  if (backing === "alone") return undefined;
  const factor = backing === "over a shorter base" ? 0.3 + random() * 0.6 : backing === "over a base" ? 1 : 1.2;
  const odd = factor === 1 ? 0 : between(random, 0, 1000);
  const bytes = patterned(Math.floor(size * factor) + odd, 250);
  for (let hole = 0; hole < 4; hole++) {
    const start = below(random, bytes.length);
    bytes.fill(0, start, start + below(random, Math.ceil(size / 5)));
  }
  return bytes;
}

/** As long as no cluster or table is, so that no two places in an image hold the same. */
const TILE = new Uint8Array(65_543).map((_, at) => ((at * 7) ^ (at >> 5) ^ (at >> 11)) & 0xff || 1);

/** Bytes that differ from place to place and from number to number, none of them zero. */
export function patterned(length: number, number: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0, from = (number * 257) % TILE.length; at < length; from = 0) {
    const part = TILE.subarray(from, from + length - at);
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Opens the image of a cell that lies in `bytes`. */
export async function openCell(
  { cell, base }: Pick<Beginning, "cell" | "base">,
  bytes: FileBytes,
  { scheduler, ...options }: Omit<OpenFormatOptions, "openBacking"> & { readonly scheduler?: Scheduler },
): Promise<MappedFormatNode> {
  const delayed = scheduler === undefined ? {} : { scheduler };
  const node = await openFormat(cell.format, new RecordingNode({ bytes, ...delayed }), {
    ...options,
    openBacking: async () => {
      if (base === undefined) throw new Error("It names a backing file");
      return new RecordingNode({ bytes: new FileBytes(base), name: "base.raw", ...delayed });
    },
  });
  if (!("populate" in node)) throw new Error(`A ${cell.format} image cannot be populated`);
  return node as MappedFormatNode;
}
