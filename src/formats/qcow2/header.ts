/**
 * What a qcow2 header says (QEMU docs/interop/qcow2, "Header"). Pure.
 *
 * The first cluster holds the fixed fields (72 bytes in version 2, at least 104 in version 3), the header extensions, and the name of the
 * backing file; nothing else may lie there. `header-parse.ts` reads it, `header-update.ts` changes it.
 */
import type { BackingReference } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { viewOf } from "./big-endian.ts";
import type { ExtensionList } from "./extensions.ts";
import { AUTOCLEAR, COMPATIBLE, type FeatureWords, INCOMPATIBLE } from "./features.ts";
import type { Region } from "./regions.ts";

export const MAGIC = 0x514649fb;
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
/** Extended L2 entries need subclusters of at least 512 bytes. */
export const MIN_EXTENDED_CLUSTER_BITS = 14;
export const MAX_REFCOUNT_ORDER = 6;
export const MAX_L1_BYTES = 32 * 2 ** 20;
export const MAX_BACKING_NAME = 1023;
/** Length of version 2's fields, and where version 3's additional fields begin. */
export const FIXED_BYTES = { 2: 72, 3: 104 } as const;

export const MIN_SNAPSHOT_BYTES = 40;
/** By the number that stands in the header. */
export const COMPRESSION_TYPES = ["zlib", "zstd"] as const;

export type CompressionType = (typeof COMPRESSION_TYPES)[number];

/** Where the name of the backing file lies, in bytes from the start of the file. */
export interface NamePlace {
  readonly offset: number;
  readonly length: number;
}

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** Virtual size in bytes. */
  readonly size: number;
  /** A reference count has 2^order bits. */
  readonly refcountOrder: number;
  readonly l1: { readonly offset: number; readonly entries: number };
  readonly refcountTable: { readonly offset: number; readonly clusters: number };
  readonly snapshots: { readonly offset: number; readonly count: number };
  readonly features: FeatureWords;
  /** Version 3: the fields from byte 104 to the header's length, known or not. */
  readonly additional: Uint8Array;
  readonly extensionList: ExtensionList;
  readonly backing: BackingReference | undefined;
  readonly backingName: NamePlace | undefined;
  /** What `forCheck` let pass, each a clause: "its L1 table ... overlaps ...". */
  readonly damage: readonly string[];
}

export function isDirty(header: Qcow2Header): boolean {
  return (header.features.incompatible & INCOMPATIBLE.dirty) !== 0n;
}

/** Whether we were the last who wrote to a dirty image: another program would have cleared our bit. */
export function isMarked(header: Qcow2Header): boolean {
  return isDirty(header) && (header.features.autoclear & AUTOCLEAR.streamdiskLog) !== 0n;
}

export function isCorrupt(header: Qcow2Header): boolean {
  return (header.features.incompatible & INCOMPATIBLE.corrupt) !== 0n;
}

export function hasExtendedL2(header: Qcow2Header): boolean {
  return (header.features.incompatible & INCOMPATIBLE.extendedL2) !== 0n;
}

export function hasLazyRefcounts(header: Qcow2Header): boolean {
  return (header.features.compatible & COMPATIBLE.lazyRefcounts) !== 0n;
}

export function compressionType(header: Qcow2Header): CompressionType {
  // The first additional field, at byte 104.
  return COMPRESSION_TYPES[header.additional[0] ?? 0] ?? "zlib";
}

/** Bytes of the disk that one L2 table, and so one L1 entry, speaks of. */
export function l2TableSpan(clusterSize: number, extendedL2: boolean): number {
  return clusterSize * (clusterSize / (extendedL2 ? 16 : 8));
}

/** Entries that an L1 table needs for a virtual size. */
export function l1EntriesFor(size: number, clusterSize: number, extendedL2: boolean): number {
  return Math.ceil(size / l2TableSpan(clusterSize, extendedL2));
}

/** Whether the bytes begin as a qcow2 image, of any version, does. */
export function hasMagic(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && viewOf(bytes).getUint32(0) === MAGIC;
}

/**
 * @throws {StreamdiskError} `refused` for an image that is marked corrupt: it may only be read
 */
export function mustBeWritable(header: Qcow2Header, node: string): void {
  if (!isCorrupt(header)) return;
  throw new StreamdiskError(
    "refused",
    `'${node}' is marked corrupt and can only be read; repair it first: qemu-img check -r all '${node}'`,
    { node },
  );
}

/** What the header points to; the snapshot table at its least possible length. */
export function headerRegions({ clusterSize, l1, refcountTable, snapshots }: Qcow2Header): Region[] {
  return [
    { what: "header", offset: 0, length: clusterSize },
    { what: "L1 table", offset: l1.offset, length: l1.entries * 8 },
    { what: "refcount table", offset: refcountTable.offset, length: refcountTable.clusters * clusterSize },
    { what: "snapshot table", offset: snapshots.offset, length: snapshots.count * MIN_SNAPSHOT_BYTES },
  ];
}
