/**
 * Reads a qcow2 header and checks whether what it says can be true. Pure.
 *
 * Everything that the header bounds or points to is checked here, before anything is allocated for it: sizes against QEMU's
 * limits, tables against the length of the file and against each other.
 */
import type { BackingReference } from "../../block/index.ts";
import { getUint64, viewOf } from "./big-endian.ts";
import { EXTENSION, type ExtensionList, findExtension, parseExtensions } from "./extensions.ts";
import { type FeatureWords, INCOMPATIBLE, KNOWN_INCOMPATIBLE, nameIncompatible } from "./features.ts";
import {
  COMPRESSION_TYPES,
  FIXED_BYTES,
  hasExtendedL2,
  hasMagic,
  headerRegions,
  l1EntriesFor,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MAX_REFCOUNT_ORDER,
  MIN_CLUSTER_BITS,
  MIN_EXTENDED_CLUSTER_BITS,
  MIN_SNAPSHOT_BYTES,
  type NamePlace,
  type Qcow2Header,
} from "./header.ts";
import { invalidImage, unsupportedImage } from "./refusals.ts";
import { findOverlap } from "./regions.ts";

const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
const MAX_SNAPSHOTS = 65536;

/**
 * Reads and validates a header.
 *
 * @param bytes the first cluster, as much of it as the file has
 * @param fileLength length of the image file, which every table must lie inside
 * @param options.forCheck damage that leaves the mapping readable (overlaps, the refcount table) is noted, not refused
 * @throws {StreamdiskError} `invalid-image` for anything that the specification rules out or that is cut off, `unsupported` for
 * features that are not implemented here
 */
export function parseHeader(
  bytes: Uint8Array,
  node: string,
  fileLength: number,
  options: { readonly forCheck?: boolean } = {},
): Qcow2Header {
  const view = viewOf(bytes);
  if (!hasMagic(bytes)) throw invalidImage(node, "it does not begin with 'QFI'");
  const version = bytes.length < 8 ? 2 : view.getUint32(4);
  if (version !== 2 && version !== 3) throw unsupportedImage(node, `qcow2 version ${version} is not known here`);
  mustHave(bytes, FIXED_BYTES[version], node);
  const clusterBits = view.getUint32(20);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw invalidImage(
      node,
      `its clusters have 2^${clusterBits} bytes, not 2^${MIN_CLUSTER_BITS} to 2^${MAX_CLUSTER_BITS}`,
    );
  }
  const clusterSize = 2 ** clusterBits;
  const headerLength = parseHeaderLength(view, version, clusterSize, node);
  mustHave(bytes, headerLength, node);
  const room = Math.min(clusterSize, bytes.length);
  const backingName = parseNamePlace(view, headerLength, room, node);
  const extensionList = parseExtensions(bytes, headerLength, backingName?.offset ?? room, node);
  const features = parseFeatures(view, version);
  const additional = bytes.slice(FIXED_BYTES[version], headerLength);
  refuseUnsupported(view, features, extensionList, node);
  checkCompressionType(features, additional[0] ?? 0, node);
  if ((features.incompatible & INCOMPATIBLE.extendedL2) !== 0n && clusterBits < MIN_EXTENDED_CLUSTER_BITS) {
    throw invalidImage(node, `it has extended L2 entries, and clusters of only ${clusterSize} bytes`);
  }
  const refcountOrder = version === 2 ? 4 : view.getUint32(96);
  if (refcountOrder > MAX_REFCOUNT_ORDER) {
    throw invalidImage(node, `its reference counts have 2^${refcountOrder} bits, more than 64`);
  }
  const header: Qcow2Header = {
    version,
    clusterBits,
    clusterSize,
    size: getUint64(view, 24),
    refcountOrder,
    l1: { offset: getUint64(view, 40), entries: view.getUint32(36) },
    refcountTable: { offset: getUint64(view, 48), clusters: view.getUint32(56) },
    snapshots: { offset: getUint64(view, 64), count: view.getUint32(60) },
    features,
    additional,
    extensionList,
    backing: backingName && parseBacking(bytes, backingName, extensionList, node),
    backingName,
    damage: [],
  };
  return { ...header, damage: checkTables(header, node, fileLength, options.forCheck ?? false) };
}

function mustHave(bytes: Uint8Array, length: number, node: string): void {
  if (bytes.length >= length) return;
  throw invalidImage(node, `it has ${bytes.length} bytes, and its header alone has ${length}; it was cut off`);
}

function parseHeaderLength(view: DataView, version: 2 | 3, clusterSize: number, node: string): number {
  if (version === 2) return FIXED_BYTES[2];
  const length = view.getUint32(100);
  if (length >= FIXED_BYTES[3] && length <= clusterSize && length % 8 === 0) return length;
  throw invalidImage(
    node,
    `its header has a length of ${length}, not a multiple of 8 from ${FIXED_BYTES[3]} to its cluster size (${clusterSize})`,
  );
}

/** An empty name is no backing file, as in QEMU. */
function parseNamePlace(view: DataView, headerLength: number, room: number, node: string): NamePlace | undefined {
  const offset = getUint64(view, 8);
  const length = view.getUint32(16);
  if (offset === 0 || length === 0) return undefined;
  if (length > MAX_BACKING_NAME) {
    throw invalidImage(node, `the name of its backing file has ${length} bytes, more than ${MAX_BACKING_NAME}`);
  }
  if (offset < headerLength || offset + length > room) {
    throw invalidImage(
      node,
      `the name of its backing file (${length} bytes at ${offset}) lies outside the header's room (${headerLength} to ${room})`,
    );
  }
  return { offset, length };
}

function parseBacking(
  bytes: Uint8Array,
  { offset, length }: NamePlace,
  { extensions }: ExtensionList,
  node: string,
): BackingReference {
  const reference = decodeText(bytes.subarray(offset, offset + length), "the name of its backing file", node);
  const format = findExtension(extensions, EXTENSION.backingFormat);
  return {
    reference,
    format: format === undefined || format.length === 0 ? undefined : decodeText(format, "its backing format", node),
  };
}

function decodeText(bytes: Uint8Array, what: string, node: string): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalidImage(node, `${what} is not UTF-8`);
  }
  if (text.includes("\0")) throw invalidImage(node, `${what} contains a zero byte`);
  return text;
}

function parseFeatures(view: DataView, version: 2 | 3): FeatureWords {
  if (version === 2) return { incompatible: 0n, compatible: 0n, autoclear: 0n };
  return {
    incompatible: view.getBigUint64(72),
    compatible: view.getBigUint64(80),
    autoclear: view.getBigUint64(88),
  };
}

function refuseUnsupported(view: DataView, features: FeatureWords, { extensions }: ExtensionList, node: string): void {
  const unknown = features.incompatible & ~KNOWN_INCOMPATIBLE;
  if (unknown !== 0n) {
    const names = nameIncompatible(unknown, findExtension(extensions, EXTENSION.featureNames));
    throw unsupportedImage(node, `it needs qcow2 features that are not known here: incompatible ${names}`);
  }
  const crypt = view.getUint32(32);
  if (crypt > 2) throw invalidImage(node, `its encryption method is ${crypt}, which is none`);
  if (crypt !== 0) {
    throw unsupportedImage(node, `it is encrypted (${crypt === 1 ? "AES" : "LUKS"}), which is not implemented here`);
  }
  if ((features.incompatible & INCOMPATIBLE.dataFile) !== 0n) {
    throw unsupportedImage(node, "its data lies in an external data file, which is not implemented here");
  }
}

function checkCompressionType({ incompatible }: FeatureWords, type: number, node: string): void {
  const marked = (incompatible & INCOMPATIBLE.compression) !== 0n;
  if (marked !== (type !== 0)) {
    throw invalidImage(
      node,
      `its compression type is ${type}, and the feature bit for it is ${marked ? "set" : "not set"}`,
    );
  }
  if (type >= COMPRESSION_TYPES.length) throw unsupportedImage(node, `compression type ${type} is not known here`);
}

/** Checks sizes and places; returns what `forCheck` lets pass. */
function checkTables(header: Qcow2Header, node: string, fileLength: number, forCheck: boolean): string[] {
  const { clusterSize, size, l1, refcountTable, snapshots } = header;
  const damage: string[] = [];
  const bearable = (why: string) => {
    if (!forCheck) throw invalidImage(node, why);
    damage.push(why);
  };
  const placed = (what: string, offset: number, length: number): string | undefined => {
    if (offset % clusterSize !== 0)
      return `its ${what} at ${offset} is not aligned to clusters of ${clusterSize} bytes`;
    if (offset + length <= fileLength) return undefined;
    return `its ${what} (${length} bytes at ${offset}) reaches past the end of the file (${fileLength} bytes); it was cut off`;
  };

  if (!Number.isSafeInteger(size)) {
    throw unsupportedImage(node, `its virtual size is ${size} bytes; the limit here is 2^53`);
  }
  const l1Bytes = l1.entries * 8;
  const needed = l1EntriesFor(size, clusterSize, hasExtendedL2(header));
  if (l1Bytes > MAX_L1_BYTES) throw invalidImage(node, `its L1 table has ${l1Bytes} bytes, more than ${MAX_L1_BYTES}`);
  if (l1.entries < needed) {
    throw invalidImage(
      node,
      `its L1 table has ${l1.entries} entries, and its virtual size of ${size} bytes needs ${needed}`,
    );
  }
  const l1Place = l1Bytes === 0 ? undefined : placed("L1 table", l1.offset, l1Bytes);
  if (l1Place !== undefined) throw invalidImage(node, l1Place);

  const tableBytes = refcountTable.clusters * clusterSize;
  if (tableBytes > MAX_REFCOUNT_TABLE_BYTES) {
    throw invalidImage(node, `its refcount table has ${tableBytes} bytes, more than ${MAX_REFCOUNT_TABLE_BYTES}`);
  }
  const tablePlace =
    tableBytes === 0 ? "it has no refcount table" : placed("refcount table", refcountTable.offset, tableBytes);
  if (tablePlace !== undefined) bearable(tablePlace);

  if (snapshots.count > MAX_SNAPSHOTS) {
    throw invalidImage(node, `it has ${snapshots.count} snapshots, more than ${MAX_SNAPSHOTS}`);
  }
  const snapshotBytes = snapshots.count * MIN_SNAPSHOT_BYTES;
  const snapshotPlace = snapshotBytes === 0 ? undefined : placed("snapshot table", snapshots.offset, snapshotBytes);
  if (snapshotPlace !== undefined) throw invalidImage(node, snapshotPlace);

  const overlap = findOverlap(headerRegions(header), clusterSize);
  if (overlap !== undefined) bearable(overlap);
  return damage;
}
