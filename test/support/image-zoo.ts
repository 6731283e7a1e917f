/**
 * Images as QEMU's tools make them, one of each kind that differs: formats, cluster sizes, chains, bases shorter and longer than
 * the overlay. What is in them is drawn by the seed, with every kind of range at unaligned places.
 */
import { join } from "node:path";
import { between, chance, oneOf, type Random } from "./draw.ts";
import { qemuImg, qemuIo } from "./qemu.ts";
import { rng } from "./seed.ts";

export interface ZooImage {
  readonly name: string;
  readonly path: string;
  readonly format: "raw" | "qcow2" | "qed";
}

interface Kind {
  readonly format: ZooImage["format"];
  readonly options?: string;
  /** In sectors of 512. */
  readonly sectors?: number;
  /** The name of the kind below. */
  readonly over?: string;
  /** No writes at all. */
  readonly empty?: boolean;
  readonly snapshot?: boolean;
  readonly compressed?: boolean;
}

const SECTORS = 12_345;

/** In an order in which each comes after what lies below it. */
const KINDS: Readonly<Record<string, Kind>> = {
  raw: { format: "raw" },
  "raw short": { format: "raw", sectors: 5000 },
  "raw long": { format: "raw", sectors: 20_000 },
  qcow2: { format: "qcow2" },
  "qcow2 v2": { format: "qcow2", options: "compat=0.10,cluster_size=4k" },
  "qcow2 512": { format: "qcow2", options: "cluster_size=512,refcount_bits=64" },
  "qcow2 2M": { format: "qcow2", options: "cluster_size=2M,refcount_bits=1" },
  "qcow2 extended L2": { format: "qcow2", options: "extended_l2=on,cluster_size=128k" },
  "qcow2 lazy": { format: "qcow2", options: "lazy_refcounts=on,cluster_size=8k" },
  "qcow2 compressed": { format: "qcow2", compressed: true },
  "qcow2 zstd": { format: "qcow2", options: "compression_type=zstd", compressed: true },
  "qcow2 snapshot": { format: "qcow2", options: "cluster_size=16k", snapshot: true },
  qed: { format: "qed" },
  "qed 4k": { format: "qed", options: "cluster_size=4k,table_size=2" },
  "empty qcow2": { format: "qcow2", empty: true },
  "qcow2 over raw": { format: "qcow2", over: "raw" },
  "qcow2 over raw short": { format: "qcow2", over: "raw short", options: "cluster_size=32k" },
  "qcow2 over raw long": { format: "qcow2", over: "raw long" },
  "qcow2 v2 over qcow2": { format: "qcow2", over: "qcow2", options: "compat=0.10" },
  "qcow2 extended L2 over qed": { format: "qcow2", over: "qed", options: "extended_l2=on,cluster_size=64k" },
  "qed over raw": { format: "qed", over: "raw" },
  "qed over compressed": { format: "qed", over: "qcow2 compressed", options: "cluster_size=16k" },
  "qed over qed": { format: "qed", over: "qed 4k" },
  "short over long": { format: "qcow2", over: "qcow2 over raw long", sectors: 4001 },
  "long over short over long": { format: "qcow2", over: "short over long", options: "cluster_size=4k" },
  "empty over chain": { format: "qcow2", over: "long over short over long", empty: true },
  "qed over chain": { format: "qed", over: "empty over chain" },
};

export const ZOO_NAMES: readonly string[] = Object.keys(KINDS);
/** Those with a backing file. */
export const ZOO_OVERLAYS: readonly string[] = ZOO_NAMES.filter((name) => KINDS[name]?.over !== undefined);

/** Makes an image of a kind, and what lies below it, in a directory. */
export function makeZooImage(name: string, directory: string, made = new Map<string, ZooImage>()): ZooImage {
  const there = made.get(name);
  if (there !== undefined) return there;
  const kind = KINDS[name];
  if (kind === undefined) throw new Error(`The zoo has no '${name}'`);
  const below = kind.over === undefined ? undefined : makeZooImage(kind.over, directory, made);
  const file = `${name.replaceAll(" ", "-")}.${kind.format}`;
  const image: ZooImage = { name, path: join(directory, file), format: kind.format };
  fill(image, kind, below);
  made.set(name, image);
  return image;
}

function fill({ name, path, format }: ZooImage, kind: Kind, below: ZooImage | undefined): void {
  const random = rng(`zoo ${name}`);
  const sectors = kind.sectors ?? SECTORS;
  const options = kind.options === undefined ? [] : ["-o", kind.options];
  const backing = below === undefined ? [] : ["-b", below.path, "-F", below.format];
  if (kind.compressed) {
    const plain = `${path}.plain`;
    qemuImg("create", "-q", "-f", "raw", plain, `${sectors * 512}`);
    qemuIo(plain, writes(random, sectors, "raw"), "-f", "raw", "-d", "unmap");
    qemuImg("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", ...options, plain, path);
    return;
  }
  qemuImg("create", "-q", "-f", format, ...options, ...backing, path, `${sectors * 512}`);
  if (kind.empty) return;
  // Where a file system has holes is settled only by writing back.
  qemuIo(path, [...writes(random, sectors, format), "flush"], "-f", format, "-d", "unmap");
  if (!kind.snapshot) return;
  qemuImg("snapshot", "-c", "first", path);
  qemuIo(path, writes(random, sectors, format), "-f", format, "-d", "unmap");
}

/** Writes, zeroes and discards, aligned and not, with some bytes of zero among the data. */
function writes(random: Random, sectors: number, format: string): string[] {
  return Array.from({ length: between(random, 10, 20) }, () => {
    const aligned = chance(random, 0.5) ? 128 : 1;
    const length = Math.min(sectors, between(random, 1, 8) * between(random, 1, 40) * (aligned === 1 ? 1 : 8));
    const start = between(random, 0, Math.floor((sectors - length) / aligned)) * aligned;
    const what = oneOf(random, ["write", "write", "write", "zero", "discard"]);
    const range = `${start * 512} ${length * 512}`;
    if (what === "zero") return `write -z${chance(random, 0.5) && format !== "raw" ? "u" : ""} ${range}`;
    return what === "discard" ? `discard ${range}` : `write -P ${between(random, 0, 4)} ${range}`;
  });
}
