/**
 * Makes new, empty qcow2 images, laid out as qemu-img does: header, refcount table, refcount blocks, L1 table, each in
 * whole clusters, each cluster with one reference.
 *
 * The header is written last, after everything else is durable: a crash leaves either an image or no image.
 */
import type { BackingReference, BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type CreatedFormat, CreationOptions, creationSize } from "../create-options.ts";
import type { CreateFormatOptions } from "../format.ts";
import { setUint64, viewOf } from "./big-endian.ts";
import { EXTENSION } from "./extensions.ts";
import { COMPATIBLE, featureNameTable, INCOMPATIBLE } from "./features.ts";
import {
  l1EntriesFor,
  l2TableSpan,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MIN_CLUSTER_BITS,
  MIN_EXTENDED_CLUSTER_BITS,
  type Qcow2Header,
} from "./header.ts";
import { encodeHeader, withExtensions } from "./header-encode.ts";
import { setBacking } from "./header-update.ts";

const CLUSTER_SIZE = 64 * 1024;
const REFCOUNT_BITS = 16;
/** As in qemu-img: in smaller clusters the names would take the room that a backing file's name needs. */
const MIN_CLUSTER_WITH_NAMES = 8192;

const OPTIONS = [
  "cluster_size",
  "compat",
  "compression_type",
  "extended_l2",
  "lazy_refcounts",
  "preallocation",
  "refcount_bits",
] as const;

/** The shape of an image, from its options. */
interface Shape {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly lazyRefcounts: boolean;
  readonly extendedL2: boolean;
  readonly zstd: boolean;
}

/** How many clusters each part of a new image takes; they follow each other in this order. */
interface Layout {
  readonly refcountTable: number;
  readonly refcountBlocks: number;
  readonly l1: number;
  /** All clusters, the header's included. */
  readonly total: number;
}

/**
 * Makes an empty image in an empty file, durably.
 *
 * Options, as in qemu-img: `cluster_size` (512 to 2M, default 64K), `compat` (v3 or v2, also 1.1 or 0.10), `compression_type` (zlib,
 * zstd), `extended_l2`, `lazy_refcounts` (on, off), `preallocation` (only off), `refcount_bits` (1 to 64, default 16).
 *
 * @throws {StreamdiskError} `invalid-argument` for options or a size that cannot be, `exists` for a file that is not
 * empty, `unsupported` for a backing file's name that does not fit into the first cluster
 */
export async function createQcow2(file: BlockNode, options: CreateFormatOptions): Promise<CreatedFormat> {
  const shape = readShape(options.options);
  const size = creationSize(options.size, file.name);
  const header = newHeader(shape, size, options.backing, file.name);
  mustBeEmpty(file);

  const { clusterSize, l1 } = header;
  const layout = layOut(header);
  if (file.grows) await file.resize(layout.total * clusterSize);
  // A device may hold an older image: that must not be found over the new tables.
  await file.writeZeroes(0, clusterSize);
  await file.flush();
  await file.writeZeroes(l1.offset, layout.l1 * clusterSize);
  await file.write(clusterSize, refcountArea(header, layout));
  await file.flush();
  await file.write(0, encodeHeader(header, file.name));
  await file.flush();
  return { size, backing: options.backing, warnings: [] };
}

function readShape(values: Readonly<Record<string, string>> | undefined): Shape {
  const options = new CreationOptions("qcow2", values, OPTIONS);
  const compat = options.word("compat", ["1.1", "v3", "0.10", "v2"]);
  const version = compat === "1.1" || compat === "v3" ? 3 : 2;
  const clusterSize = options.number("cluster_size", CLUSTER_SIZE);
  const refcountBits = options.number("refcount_bits", REFCOUNT_BITS);
  const shape: Shape = {
    version,
    clusterBits: Math.log2(clusterSize),
    refcountOrder: Math.log2(refcountBits),
    lazyRefcounts: options.word("lazy_refcounts", ["off", "on"]) === "on",
    extendedL2: options.word("extended_l2", ["off", "on"]) === "on",
    zstd: options.word("compression_type", ["zlib", "zstd"]) === "zstd",
  };
  options.word("preallocation", ["off"]);

  if (!isPowerIn(shape.clusterBits, MIN_CLUSTER_BITS, MAX_CLUSTER_BITS)) {
    throw bad(
      "cluster_size",
      clusterSize,
      `it is a power of two from ${2 ** MIN_CLUSTER_BITS} to ${2 ** MAX_CLUSTER_BITS}`,
    );
  }
  if (!isPowerIn(shape.refcountOrder, 0, 6))
    throw bad("refcount_bits", refcountBits, "it is a power of two from 1 to 64");
  if (shape.extendedL2 && shape.clusterBits < MIN_EXTENDED_CLUSTER_BITS) {
    throw bad("cluster_size", clusterSize, `with extended_l2 it is at least ${2 ** MIN_EXTENDED_CLUSTER_BITS}`);
  }
  if (version === 2) refuseVersion3Options(shape, refcountBits);
  return shape;
}

function refuseVersion3Options(shape: Shape, refcountBits: number): void {
  const why = "that needs compat=1.1";
  if (refcountBits !== REFCOUNT_BITS) throw bad("refcount_bits", refcountBits, why);
  if (shape.lazyRefcounts) throw bad("lazy_refcounts", "on", why);
  if (shape.extendedL2) throw bad("extended_l2", "on", why);
  if (shape.zstd) throw bad("compression_type", "zstd", why);
}

function isPowerIn(exponent: number, least: number, most: number): boolean {
  return Number.isInteger(exponent) && exponent >= least && exponent <= most;
}

function bad(option: string, value: number | string, why: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `Option '${option}' for qcow2 cannot be '${value}': ${why}`);
}

function newHeader(shape: Shape, size: number, backing: BackingReference | undefined, node: string): Qcow2Header {
  const clusterSize = 2 ** shape.clusterBits;
  const entries = l1EntriesFor(size, clusterSize, shape.extendedL2);
  if (entries * 8 > MAX_L1_BYTES) {
    const most = l2TableSpan(clusterSize, shape.extendedL2) * (MAX_L1_BYTES / 8);
    throw new StreamdiskError(
      "invalid-argument",
      `'${node}' cannot have a size of ${size} bytes: its L1 table would take ${entries * 8} bytes, more than ${MAX_L1_BYTES}; with clusters of ${clusterSize} bytes a qcow2 image has at most ${most} bytes; use larger clusters`,
      { node },
    );
  }
  const { version } = shape;
  const incompatible = (shape.extendedL2 ? INCOMPATIBLE.extendedL2 : 0n) | (shape.zstd ? INCOMPATIBLE.compression : 0n);
  const additional = new Uint8Array(version === 3 ? 8 : 0);
  if (shape.zstd) additional[0] = 1;
  const bare: Qcow2Header = {
    version,
    clusterBits: shape.clusterBits,
    clusterSize,
    size,
    refcountOrder: shape.refcountOrder,
    l1: { offset: 0, entries },
    refcountTable: { offset: clusterSize, clusters: 0 },
    snapshots: { offset: 0, count: 0 },
    features: { incompatible, compatible: shape.lazyRefcounts ? COMPATIBLE.lazyRefcounts : 0n, autoclear: 0n },
    additional,
    extensionList: { extensions: [], end: 0, endMark: true },
    backing: undefined,
    backingName: undefined,
    damage: [],
  };
  const layout = layOut(bare);
  const placed = {
    ...bare,
    l1: { offset: (layout.total - layout.l1) * clusterSize, entries },
    refcountTable: { offset: clusterSize, clusters: layout.refcountTable },
  };
  const named = version === 3 && clusterSize >= MIN_CLUSTER_WITH_NAMES;
  const header = withExtensions(placed, named ? [{ type: EXTENSION.featureNames, data: featureNameTable() }] : []);
  return backing === undefined ? header : setBacking(header, backing, node).header;
}

/** Each refcount block counts itself too, so the numbers are raised until they hold. */
function layOut({ clusterSize, refcountOrder, l1 }: Qcow2Header): Layout {
  const l1Clusters = Math.ceil((l1.entries * 8) / clusterSize);
  const countsPerBlock = (clusterSize * 8) / 2 ** refcountOrder;
  let [table, blocks, total] = [1, 1, 0];
  for (;;) {
    total = 1 + table + blocks + l1Clusters;
    const neededBlocks = Math.ceil(total / countsPerBlock);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterSize);
    if (neededBlocks <= blocks && neededTable <= table) break;
    blocks = Math.max(blocks, neededBlocks);
    table = Math.max(table, neededTable);
  }
  return { refcountTable: table, refcountBlocks: blocks, l1: l1Clusters, total };
}

/** The refcount table and its blocks, which say 1 for every cluster of the layout. */
function refcountArea({ clusterSize, refcountOrder }: Qcow2Header, layout: Layout): Uint8Array {
  const tableBytes = layout.refcountTable * clusterSize;
  const area = new Uint8Array(tableBytes + layout.refcountBlocks * clusterSize);
  const view = viewOf(area);
  for (let block = 0; block < layout.refcountBlocks; block++) {
    setUint64(view, block * 8, (1 + layout.refcountTable + block) * clusterSize);
  }
  const bits = 2 ** refcountOrder;
  for (let cluster = 0; cluster < layout.total; cluster++) {
    // Below a byte the first count is in the lowest bits; above it the 1 is in the last byte.
    const lowestBit = cluster * bits;
    const at = tableBytes + (bits < 8 ? Math.floor(lowestBit / 8) : (lowestBit + bits) / 8 - 1);
    area[at] = (area[at] ?? 0) | (1 << (bits < 8 ? lowestBit % 8 : 0));
  }
  return area;
}

function mustBeEmpty(file: BlockNode): void {
  if (!file.grows || file.length === 0) return;
  throw new StreamdiskError("exists", `'${file.name}' is not empty: it has ${file.length} bytes`, { node: file.name });
}
