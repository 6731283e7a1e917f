/**
 * The QED header: parse, encode, update (QEMU docs/interop/qed_spec, "Header" and "Feature bits"). Pure.
 *
 * The header is 64 bytes at offset 0, little endian, so that it lies within one sector and a write of it is atomic. The name of the
 * backing file lies anywhere in the first `headerClusters` clusters. Other bytes there may belong to compatible features that we do not
 * know: nothing but the header and the name is ever written (`header-update.ts`).
 */
import type { BackingReference } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";

export const QED_HEADER_BYTES = 64;
export const QED_MAGIC = 0x00444551;
export const QED_MIN_CLUSTER = 4096;
export const QED_MAX_CLUSTER = 64 * 1024 * 1024;
export const QED_MAX_TABLE_CLUSTERS = 16;
/** QEMU reads names that are shorter than 4096 bytes. */
export const QED_MAX_NAME_READ = 4095;
/** The unit of virtual sizes, and what a disk writes whole or not at all. */
export const SECTOR = 512;

const BACKING_FILE = 0x01;
const NEED_CHECK = 0x02;
const BACKING_FORMAT_NO_PROBE = 0x04;
const KNOWN_FEATURES = BigInt(BACKING_FILE | NEED_CHECK | BACKING_FORMAT_NO_PROBE);

/**
 * An autoclear bit of ours, and no one else's: a log of mappings may speak of this image (ADR 1). Any other program that writes clears
 * it.
 */
export const QED_LOG_BIT = 2n ** 63n;

/** Where the name of the backing file lies, in bytes from the start of the file. */
export interface QedNamePlace {
  readonly offset: number;
  readonly size: number;
}

export interface QedHeader {
  readonly clusterSize: number;
  /** Size of every L1 and L2 table, in clusters. */
  readonly tableClusters: number;
  /** Clusters before the first regular one. */
  readonly headerClusters: number;
  readonly l1Offset: number;
  /** Virtual size in bytes, a multiple of 512. */
  readonly imageSize: number;
  /** The tables may not agree with the clusters: check before use. */
  readonly needCheck: boolean;
  readonly backingName: QedNamePlace | undefined;
  /** The backing file is raw whatever it looks like. */
  readonly backingIsRaw: boolean;
  /** Bits that we do not know and need not; kept as they are. */
  readonly compatFeatures: bigint;
  /** Bits that we do not know: to be cleared before anything is written. */
  readonly autoclearFeatures: bigint;
}

export function qedTableBytes(header: Pick<QedHeader, "clusterSize" | "tableClusters">): number {
  return header.clusterSize * header.tableClusters;
}

/**
 * The largest virtual size that the tables can address, in bytes. It may be past what a number holds exactly (then it is a
 * power of two all the same).
 */
export function qedMaxSize(clusterSize: number, tableClusters: number): number {
  const entries = (clusterSize * tableClusters) / 8;
  return entries * entries * clusterSize;
}

/**
 * Why QEMU cannot open images of this shape, though the specification allows them; undefined when it can (QEMU 7.2, measured): its
 * test that a table lies inside the file refuses tables of one cluster, and its largest size overflows 64 bits.
 */
export function qemuCannotOpen(clusterSize: number, tableClusters: number): string | undefined {
  if (tableClusters === 1) return "QEMU refuses QED images whose tables are one cluster large";
  if (qedMaxSize(clusterSize, tableClusters) >= 2 ** 64) {
    return `QEMU refuses QED images with clusters of ${clusterSize} bytes and tables of ${tableClusters} clusters`;
  }
  return undefined;
}

/**
 * Reads and validates a header.
 *
 * @param bytes the first bytes of the file, at least the 64 of the header
 * @param fileLength length of the image file, which every offset must lie inside
 * @param node how messages call the image
 * @throws {StreamdiskError} `invalid-image` for anything that the specification rules out or that is cut off, `unsupported` for
 * feature bits that we do not know
 */
export function parseQedHeader(bytes: Uint8Array, fileLength: number, node: string): QedHeader {
  const invalid = (why: string) =>
    new StreamdiskError("invalid-image", `'${node}' is not a valid QED image: ${why}`, { node });
  if (bytes.length < QED_HEADER_BYTES) {
    throw invalid(`it has ${bytes.length} bytes, and the header alone has ${QED_HEADER_BYTES}; it was cut off`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, QED_HEADER_BYTES);
  if (view.getUint32(0, true) !== QED_MAGIC) throw invalid("it does not begin with 'QED'");
  const clusterSize = view.getUint32(4, true);
  const tableClusters = view.getUint32(8, true);
  const headerClusters = view.getUint32(12, true);
  const features = view.getBigUint64(16, true);
  if ((features & ~KNOWN_FEATURES) !== 0n) throw unknownFeatures(features & ~KNOWN_FEATURES, node);
  if (!isQedClusterSize(clusterSize)) {
    throw invalid(
      `its cluster size is ${clusterSize}, not a power of two from ${QED_MIN_CLUSTER} to ${QED_MAX_CLUSTER}`,
    );
  }
  if (!isQedTableSize(tableClusters)) {
    throw invalid(
      `its table size is ${tableClusters} clusters, not a power of two from 1 to ${QED_MAX_TABLE_CLUSTERS}`,
    );
  }
  const whole = fileLength - (fileLength % clusterSize);
  const headerBytes = headerClusters * clusterSize;
  if (headerClusters === 0) throw invalid("its header size is 0 clusters");
  if (headerBytes > whole) {
    throw invalid(`its header takes ${headerBytes} bytes, and the file has ${fileLength}; it was cut off`);
  }

  const l1 = view.getBigUint64(40, true);
  const tableBytes = clusterSize * tableClusters;
  if (l1 % BigInt(clusterSize) !== 0n)
    throw invalid(`its L1 table at ${l1} is not aligned to clusters of ${clusterSize} bytes`);
  if (l1 < BigInt(headerBytes)) throw invalid(`its L1 table at ${l1} lies inside the header of ${headerBytes} bytes`);
  if (l1 + BigInt(tableBytes) > BigInt(whole)) {
    throw invalid(
      `its L1 table of ${tableBytes} bytes at ${l1} reaches past the end of the file of ${fileLength} bytes; it was cut off`,
    );
  }

  const imageSize = view.getBigUint64(48, true);
  if (imageSize % BigInt(SECTOR) !== 0n) throw invalid(`its virtual size is ${imageSize}, not a multiple of ${SECTOR}`);
  // Exact: a float that is a power of two converts without loss.
  const max = BigInt(qedMaxSize(clusterSize, tableClusters));
  if (imageSize > max) throw invalid(`its virtual size is ${imageSize}, and its tables address at most ${max} bytes`);
  if (imageSize > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new StreamdiskError(
      "unsupported",
      `'${node}' has a virtual size of ${imageSize} bytes; 2^53 is the limit here`,
      { node },
    );
  }

  return {
    clusterSize,
    tableClusters,
    headerClusters,
    l1Offset: Number(l1),
    imageSize: Number(imageSize),
    needCheck: (features & BigInt(NEED_CHECK)) !== 0n,
    backingName: (features & BigInt(BACKING_FILE)) === 0n ? undefined : parseNamePlace(view, headerBytes, invalid),
    backingIsRaw: (features & BigInt(BACKING_FORMAT_NO_PROBE)) !== 0n,
    compatFeatures: view.getBigUint64(24, true),
    autoclearFeatures: view.getBigUint64(32, true),
  };
}

/** An empty name with the feature bit set is no backing file, as in QEMU. */
function parseNamePlace(
  view: DataView,
  headerBytes: number,
  invalid: (why: string) => Error,
): QedNamePlace | undefined {
  const offset = view.getUint32(56, true);
  const size = view.getUint32(60, true);
  if (size === 0) return undefined;
  if (size > QED_MAX_NAME_READ)
    throw invalid(`the name of its backing file has ${size} bytes, more than ${QED_MAX_NAME_READ}`);
  if (offset < QED_HEADER_BYTES || offset + size > headerBytes) {
    throw invalid(
      `the name of its backing file (${size} bytes at ${offset}) lies outside the header of ${headerBytes} bytes`,
    );
  }
  return { offset, size };
}

function unknownFeatures(bits: bigint, node: string): StreamdiskError {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) if ((bits >> BigInt(bit)) & 1n) names.push(String(bit));
  const which = names.length === 1 ? `bit ${names[0]}` : `bits ${names.join(", ")}`;
  return new StreamdiskError(
    "unsupported",
    `'${node}' uses QED features that are not known here (feature ${which}); a newer program made it`,
    { node },
  );
}

/**
 * Reads a backing file's name.
 *
 * @param bytes what lies at the header's `backingName`
 * @returns the reference: its format is "raw" or unknown, as QED can say no more
 * @throws {StreamdiskError} `invalid-image` for a name with a zero byte or that is not UTF-8
 */
export function decodeBackingName(bytes: Uint8Array, header: QedHeader, node: string): BackingReference {
  let reference: string | undefined;
  try {
    reference = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // Said below.
  }
  if (reference === undefined || reference.includes("\0")) {
    const what = reference === undefined ? "is not UTF-8" : "contains a zero byte";
    throw new StreamdiskError(
      "invalid-image",
      `'${node}' is not a valid QED image: the name of its backing file ${what}`,
      { node },
    );
  }
  return { reference, format: header.backingIsRaw ? "raw" : undefined };
}

/** Whether we were the last who wrote to an image that was not closed: another program would have cleared our bit. */
export function isMarked(header: QedHeader): boolean {
  return header.needCheck && (header.autoclearFeatures & QED_LOG_BIT) !== 0n;
}

/** The 64 bytes of a header. */
export function encodeQedHeader(header: QedHeader): Uint8Array {
  const bytes = new Uint8Array(QED_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  const backing = header.backingName;
  let features = header.needCheck ? NEED_CHECK : 0;
  if (backing !== undefined) features |= BACKING_FILE | (header.backingIsRaw ? BACKING_FORMAT_NO_PROBE : 0);
  view.setUint32(0, QED_MAGIC, true);
  view.setUint32(4, header.clusterSize, true);
  view.setUint32(8, header.tableClusters, true);
  view.setUint32(12, header.headerClusters, true);
  view.setBigUint64(16, BigInt(features), true);
  view.setBigUint64(24, header.compatFeatures, true);
  view.setBigUint64(32, header.autoclearFeatures, true);
  view.setBigUint64(40, BigInt(header.l1Offset), true);
  view.setBigUint64(48, BigInt(header.imageSize), true);
  view.setUint32(56, backing?.offset ?? 0, true);
  view.setUint32(60, backing?.size ?? 0, true);
  return bytes;
}

export function isQedClusterSize(bytes: number): boolean {
  return bytes >= QED_MIN_CLUSTER && bytes <= QED_MAX_CLUSTER && isPowerOfTwo(bytes);
}

export function isQedTableSize(clusters: number): boolean {
  return clusters <= QED_MAX_TABLE_CLUSTERS && isPowerOfTwo(clusters);
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}
