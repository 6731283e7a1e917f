/** Writes a qcow2 header as bytes; the counterpart of `header-parse.ts`. Pure. */
import { setUint64, viewOf } from "./big-endian.ts";
import { encodeExtensions, type HeaderExtension } from "./extensions.ts";
import { FIXED_BYTES, MAGIC, type Qcow2Header } from "./header.ts";
import { unsupportedImage } from "./refusals.ts";

/** The fixed fields: 72 bytes in version 2, 104 in version 3. They lie in one sector, which a disk writes whole or not at all. */
export function encodeFields(header: Qcow2Header): Uint8Array {
  const bytes = new Uint8Array(FIXED_BYTES[header.version]);
  const view = viewOf(bytes);
  view.setUint32(0, MAGIC);
  view.setUint32(4, header.version);
  setUint64(view, 8, header.backingName?.offset ?? 0);
  view.setUint32(16, header.backingName?.length ?? 0);
  view.setUint32(20, header.clusterBits);
  setUint64(view, 24, header.size);
  // Bytes 32 to 35: no encryption.
  view.setUint32(36, header.l1.entries);
  setUint64(view, 40, header.l1.offset);
  setUint64(view, 48, header.refcountTable.offset);
  view.setUint32(56, header.refcountTable.clusters);
  view.setUint32(60, header.snapshots.count);
  setUint64(view, 64, header.snapshots.offset);
  if (header.version === 3) {
    view.setBigUint64(72, header.features.incompatible);
    view.setBigUint64(80, header.features.compatible);
    view.setBigUint64(88, header.features.autoclear);
    view.setUint32(96, header.refcountOrder);
    view.setUint32(100, headerLength(header));
  }
  return bytes;
}

/**
 * All that the first cluster holds: fields, extensions, and the name of the backing file where `backingName` has it.
 *
 * @throws {StreamdiskError} `unsupported` when that is more than a cluster
 */
export function encodeHeader(header: Qcow2Header, node: string): Uint8Array {
  const { extensionList: list, backing, backingName, clusterSize } = header;
  const length = Math.max(list.end, backingName === undefined ? 0 : backingName.offset + backingName.length);
  if (length > clusterSize) {
    throw unsupportedImage(
      node,
      `its header needs ${length} bytes, more than a cluster (${clusterSize}); a shorter name of the backing file, or larger clusters, would fit`,
    );
  }
  const bytes = new Uint8Array(length);
  bytes.set(encodeFields(header));
  bytes.set(header.additional, FIXED_BYTES[header.version]);
  bytes.set(encodeExtensions(list.extensions, list.endMark), headerLength(header));
  if (backing !== undefined && backingName !== undefined) {
    bytes.set(new TextEncoder().encode(backing.reference), backingName.offset);
  }
  return bytes;
}

/** The header with other extensions, and an end mark behind them. */
export function withExtensions(header: Qcow2Header, extensions: readonly HeaderExtension[]): Qcow2Header {
  const end = headerLength(header) + encodeExtensions(extensions).length;
  return { ...header, extensionList: { extensions, end, endMark: true } };
}

function headerLength(header: Qcow2Header): number {
  return FIXED_BYTES[header.version] + header.additional.length;
}
