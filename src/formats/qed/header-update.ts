/**
 * Changes of a QED header, as lists of writes. Pure; `header.ts` says what lies where.
 *
 * Each write is to be durable before the next. At every point between them and inside each (a sector is written whole or not at all)
 * the image has a valid header and a whole name: a name that shares the header's sector is written with it, any other goes first
 * where the present name does not lie, and then the header turns to it.
 */
import type { BackingReference } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { MetadataWrite } from "../mapped/allocator.ts";
import {
  encodeQedHeader,
  QED_HEADER_BYTES,
  QED_LOG_BIT,
  type QedHeader,
  type QedNamePlace,
  qedMaxSize,
  SECTOR,
} from "./header.ts";

/** As qcow2 bounds it, and so that two names fit into the smallest header: the present one and the next. */
export const QED_MAX_NAME_WRITTEN = 1023;

/** A changed header and what makes it so on disk: each write is to be durable before the next. */
export interface QedHeaderUpdate {
  readonly header: QedHeader;
  readonly writes: readonly MetadataWrite[];
}

/** The header alone, one write: whatever fields differ, they change together. */
export function rewriteHeader(header: QedHeader): QedHeaderUpdate {
  return { header, writes: [{ offset: 0, bytes: encodeQedHeader(header) }] };
}

/**
 * Marks an image as being changed by us (ADR 1), or as closed: `need_check`, and an autoclear bit of our own. All other autoclear bits
 * are cleared, as we know none.
 */
export function setMark(header: QedHeader, marked: boolean): QedHeaderUpdate {
  return rewriteHeader({ ...header, needCheck: marked, autoclearFeatures: marked ? QED_LOG_BIT : 0n });
}

/**
 * Changes the virtual size.
 *
 * @throws {StreamdiskError} `invalid-argument` for a size that is no multiple of 512 or more than the tables address
 */
export function setImageSize(header: QedHeader, imageSize: number, node: string): QedHeaderUpdate {
  checkQedSize(imageSize, header.clusterSize, header.tableClusters, node);
  return rewriteHeader({ ...header, imageSize });
}

/**
 * Changes the reference to the backing file; undefined removes it. Of the reference's format QED can keep only whether it
 * is raw.
 *
 * @throws {StreamdiskError} `invalid-argument` for a name that does not fit, `unsupported` when compatible features that we do
 * not know may own the bytes where it would go
 */
export function setBacking(header: QedHeader, backing: BackingReference | undefined, node: string): QedHeaderUpdate {
  if (backing === undefined) return rewriteHeader({ ...header, backingName: undefined, backingIsRaw: false });
  if (header.compatFeatures !== 0n) {
    const bits = header.compatFeatures.toString(16);
    throw new StreamdiskError(
      "unsupported",
      `Could not change the backing file of '${node}': it uses compatible QED features that are not known here (0x${bits}), which may own the room for the name`,
      { node },
    );
  }
  const name = encodeBackingName(backing.reference, node);
  const backingName = placeName(header, name.length, node);
  const changed = { ...header, backingName, backingIsRaw: backing.format === "raw" };
  const bytes = encodeQedHeader(changed);
  if (backingName.offset === QED_HEADER_BYTES) {
    return { header: changed, writes: [{ offset: 0, bytes: Buffer.concat([bytes, name]) }] };
  }
  return {
    header: changed,
    writes: [
      { offset: backingName.offset, bytes: name },
      { offset: 0, bytes },
    ],
  };
}

/**
 * Checks a virtual size against a shape.
 *
 * @throws {StreamdiskError} `invalid-argument`
 */
export function checkQedSize(size: number, clusterSize: number, tableClusters: number, node: string): void {
  const bad = (why: string) =>
    new StreamdiskError("invalid-argument", `'${node}' cannot have a size of ${size} bytes: ${why}`, { node });
  if (!Number.isSafeInteger(size) || size < 0)
    throw bad(`it must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`);
  if (size % SECTOR !== 0) throw bad(`a QED image's is a multiple of ${SECTOR}`);
  const max = qedMaxSize(clusterSize, tableClusters);
  if (size > max) {
    throw bad(
      `QED tables of ${tableClusters} clusters of ${clusterSize} bytes address at most ${max} bytes; use larger clusters or tables`,
    );
  }
}

function encodeBackingName(reference: string, node: string): Uint8Array {
  const bytes = new TextEncoder().encode(reference);
  const bad = (why: string) =>
    new StreamdiskError("invalid-argument", `Could not set the backing file of '${node}': ${why}`, { node });
  if (bytes.length === 0) throw bad("its name is empty");
  if (bytes.includes(0)) throw bad("its name contains a zero byte");
  if (bytes.length > QED_MAX_NAME_WRITTEN) {
    throw bad(`its name has ${bytes.length} bytes, and at most ${QED_MAX_NAME_WRITTEN} are kept; use a shorter path`);
  }
  return bytes;
}

/** Finds room for a name: in the header's sector, or in sectors that the present name does not touch. */
function placeName(header: QedHeader, size: number, node: string): QedNamePlace {
  if (QED_HEADER_BYTES + size <= SECTOR) return { offset: QED_HEADER_BYTES, size };
  const headerBytes = header.headerClusters * header.clusterSize;
  const present = header.backingName ?? { offset: 0, size: 0 };
  const presentEnd = present.offset + present.size;
  const before = SECTOR + size <= Math.floor(present.offset / SECTOR) * SECTOR;
  const after = Math.max(SECTOR, Math.ceil(presentEnd / SECTOR) * SECTOR);
  if (before || presentEnd <= SECTOR) return { offset: SECTOR, size };
  if (after + size <= headerBytes) return { offset: after, size };
  throw new StreamdiskError(
    "invalid-argument",
    `Could not set the backing file of '${node}': its name of ${size} bytes finds no room in the header of ${headerBytes} bytes beside the present one of ${present.size} bytes; use a path of at most ${SECTOR - QED_HEADER_BYTES} bytes`,
    { node },
  );
}
