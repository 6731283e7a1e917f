/**
 * Persistent dirty bitmaps (QEMU docs/interop/qcow2, "Bitmaps extension" and "Bitmaps"): a directory, and for each bitmap a table
 * of the clusters that hold its bits. We read what they are called and which clusters they take, never their bits.
 *
 * They count only while autoclear bit 0 is set. A writer that does not maintain them clears that bit (`clearAutoclear`); from
 * then on they are invalid and their clusters leaked.
 */
import type { BlockNode } from "../../block/index.ts";
import { getUint64, viewOf } from "./big-endian.ts";
import { EXTENSION, findExtension } from "./extensions.ts";
import { AUTOCLEAR } from "./features.ts";
import { headerRegions, type Qcow2Header } from "./header.ts";
import { invalidImage } from "./refusals.ts";
import { findOverlap, type Region } from "./regions.ts";

const EXTENSION_BYTES = 24;
const ENTRY_BYTES = 24;
const MAX_BITMAPS = 65535;
const MAX_DIRECTORY_BYTES = 16 * 2 ** 20;
/** As in QEMU: the bits of one bitmap. */
const MAX_BITMAP_BYTES = 512 * 2 ** 20;
const MAX_NAME = 1023;
const DIRTY_TRACKING = 1;
/** Table entries read at once. */
const PIECE = 8192;

export interface Bitmap {
  readonly name: string;
  /** Bytes of the disk that one bit stands for. */
  readonly granularity: number;
  readonly flags: readonly ("in-use" | "auto")[];
  readonly table: { readonly offset: number; readonly entries: number };
}

interface Directory {
  readonly offset: number;
  readonly length: number;
  readonly count: number;
}

/**
 * Reads what bitmaps there are; none when they are not marked consistent.
 *
 * @throws {StreamdiskError} `invalid-image`
 */
export async function readBitmaps(file: BlockNode, header: Qcow2Header): Promise<Bitmap[]> {
  const directory = parseDirectoryPlace(header, file.name, file.length);
  if (directory === undefined) return [];
  const bytes = new Uint8Array(directory.length);
  await file.read(directory.offset, bytes);
  const bitmaps = parseDirectory(bytes, directory.count, header, file.name, file.length);
  checkOverlap(directory, bitmaps, header, file.name);
  return bitmaps;
}

/**
 * The host ranges that bitmaps take: the directory, the tables, and each cluster of bits.
 *
 * @throws {StreamdiskError} `invalid-image`
 */
export async function* bitmapClusters(
  file: BlockNode,
  header: Qcow2Header,
): AsyncGenerator<{ host: number; length: number }, void, undefined> {
  const directory = parseDirectoryPlace(header, file.name, file.length);
  if (directory === undefined) return;
  yield { host: directory.offset, length: directory.length };
  for (const { name, table } of await readBitmaps(file, header)) {
    yield { host: table.offset, length: table.entries * 8 };
    for (let first = 0; first < table.entries; first += PIECE) {
      const piece = new Uint8Array(Math.min(PIECE, table.entries - first) * 8);
      await file.read(table.offset + first * 8, piece);
      for (const host of dataClusters(piece, header.clusterSize, `table of bitmap '${name}'`, file.name)) {
        yield { host, length: header.clusterSize };
      }
    }
  }
}

/** What a user should know before the image is written to; undefined when it has no bitmaps. */
export function bitmapWarning(bitmaps: readonly Bitmap[], node: string): string | undefined {
  if (bitmaps.length === 0) return undefined;
  const shown = bitmaps.slice(0, 5).map(({ name }) => `'${name}'`);
  const more = bitmaps.length > shown.length ? ` and ${bitmaps.length - shown.length} more` : "";
  return `Writing to '${node}' makes its persistent bitmaps invalid (${shown.join(", ")}${more}): the next backup has to be a full one`;
}

function parseDirectoryPlace(header: Qcow2Header, node: string, fileLength: number): Directory | undefined {
  if ((header.features.autoclear & AUTOCLEAR.bitmaps) === 0n) return undefined;
  const data = findExtension(header.extensionList.extensions, EXTENSION.bitmaps);
  if (data === undefined)
    throw invalidImage(node, "it is marked to have bitmaps, and lacks the extension that says where");
  if (data.length !== EXTENSION_BYTES)
    throw invalidImage(node, `its bitmaps extension has ${data.length} bytes, not ${EXTENSION_BYTES}`);
  const view = viewOf(data);
  const count = view.getUint32(0);
  const length = getUint64(view, 8);
  const offset = getUint64(view, 16);
  if (count === 0 || count > MAX_BITMAPS) throw invalidImage(node, `it has ${count} bitmaps, not 1 to ${MAX_BITMAPS}`);
  if (length > MAX_DIRECTORY_BYTES)
    throw invalidImage(node, `its bitmap directory has ${length} bytes, more than ${MAX_DIRECTORY_BYTES}`);
  mustBePlaced("its bitmap directory", offset, length, header.clusterSize, fileLength, node);
  return { offset, length, count };
}

function parseDirectory(
  bytes: Uint8Array,
  count: number,
  header: Qcow2Header,
  node: string,
  fileLength: number,
): Bitmap[] {
  const view = viewOf(bytes);
  const bitmaps: Bitmap[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (at + ENTRY_BYTES > bytes.length) break;
    const nameLength = view.getUint16(at + 18);
    const nameAt = at + ENTRY_BYTES + view.getUint32(at + 20);
    if (nameAt + nameLength > bytes.length || nameLength > MAX_NAME || bitmaps.length === count) break;
    const flags = view.getUint32(at + 12);
    const granularityBits = view.getUint8(at + 17);
    const name = new TextDecoder().decode(bytes.subarray(nameAt, nameAt + nameLength));
    if (view.getUint8(at + 16) !== DIRTY_TRACKING || granularityBits > 63) {
      throw invalidImage(node, `its bitmap '${name}' is of no known kind`);
    }
    const table = { offset: getUint64(view, at), entries: view.getUint32(at + 8) };
    if (table.entries * header.clusterSize > MAX_BITMAP_BYTES) {
      throw invalidImage(node, `its bitmap '${name}' has more than ${MAX_BITMAP_BYTES} bytes`);
    }
    mustBePlaced(
      `the table of its bitmap '${name}'`,
      table.offset,
      table.entries * 8,
      header.clusterSize,
      fileLength,
      node,
    );
    const named = [...((flags & 1) !== 0 ? ["in-use" as const] : []), ...((flags & 2) !== 0 ? ["auto" as const] : [])];
    bitmaps.push({ name, granularity: 2 ** granularityBits, flags: named, table });
    at = Math.ceil((nameAt + nameLength) / 8) * 8;
  }
  if (at !== bytes.length || bitmaps.length !== count) {
    throw invalidImage(node, `its bitmap directory (${bytes.length} bytes) does not hold ${count} bitmaps`);
  }
  return bitmaps;
}

/** An entry is the offset of a cluster, or 0 or 1 for bits that are all the same and take no space. */
function* dataClusters(
  table: Uint8Array,
  clusterSize: number,
  what: string,
  node: string,
): Generator<number, void, undefined> {
  const view = viewOf(table);
  for (let at = 0; at < table.length; at += 8) {
    const host = getUint64(view, at);
    if (host <= 1) continue;
    if (host % clusterSize !== 0 || !Number.isSafeInteger(host)) {
      throw invalidImage(node, `the ${what} has an entry 0x${view.getBigUint64(at).toString(16)}`);
    }
    yield host;
  }
}

function mustBePlaced(
  what: string,
  offset: number,
  length: number,
  clusterSize: number,
  fileLength: number,
  node: string,
): void {
  const aligned = offset % clusterSize === 0 && offset !== 0;
  if (length > 0 && aligned && offset + length <= fileLength) return;
  throw invalidImage(
    node,
    `${what} (${length} bytes at ${offset}) does not lie at a cluster inside the file (${fileLength} bytes)`,
  );
}

/** Besides the damage itself this bounds the work of reading all tables by the length of the file. */
function checkOverlap(directory: Directory, bitmaps: readonly Bitmap[], header: Qcow2Header, node: string): void {
  const regions: Region[] = header.damage.length > 0 ? [] : headerRegions(header);
  regions.push({ what: "bitmap directory", ...directory });
  for (const { name, table } of bitmaps) {
    regions.push({ what: `table of bitmap '${name}'`, offset: table.offset, length: table.entries * 8 });
  }
  const overlap = findOverlap(regions, header.clusterSize);
  if (overlap !== undefined) throw invalidImage(node, overlap);
}
