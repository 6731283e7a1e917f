/**
 * The table of internal snapshots (QEMU docs/interop/qcow2, "Snapshots"): entries of varying length, each naming an L1 table of its
 * own. We read them, so that their clusters are neither damaged nor taken for leaks, and never write them.
 *
 * The header bounds the number of entries but not the table's length, so it is read piece by piece, as far as it goes. L1 tables may not
 * overlap anything: that also bounds the work of walking them all by the length of the file.
 */
import type { BlockNode } from "../../block/index.ts";
import type { SnapshotDetails } from "../format.ts";
import { getUint64, viewOf } from "./big-endian.ts";
import { headerRegions, MAX_L1_BYTES, MIN_SNAPSHOT_BYTES, type Qcow2Header } from "./header.ts";
import { invalidImage } from "./refusals.ts";
import { findOverlap } from "./regions.ts";

/** As in QEMU. */
const MAX_EXTRA_BYTES = 1024;
const MAX_TABLE_BYTES = 32 * 2 ** 20;
const FIRST_READ = 64 * 1024;
/** Places of the extra data, from the start of an entry, and where each ends. */
const LARGE_VM_STATE = 40;
const DISK_SIZE = 48;
const ICOUNT = 56;
const NO_ICOUNT = 2n ** 64n - 1n;
const SECOND = 1_000_000_000n;

export interface Snapshot {
  readonly name: string;
  readonly details: SnapshotDetails;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** Virtual size in bytes when it was taken; the image's own where the entry does not say (version 2). */
  readonly diskSize: number;
}

export interface SnapshotTable {
  readonly list: readonly Snapshot[];
  /** Of the table in the file, in bytes. */
  readonly length: number;
}

/**
 * Reads and validates the whole table.
 *
 * @throws {StreamdiskError} `invalid-image`
 */
export async function readSnapshots(file: BlockNode, header: Qcow2Header): Promise<SnapshotTable> {
  const { offset, count } = header.snapshots;
  if (count === 0) return { list: [], length: 0 };
  const limit = Math.min(file.length - offset, MAX_TABLE_BYTES);
  for (let length = Math.min(FIRST_READ, limit); ; length = Math.min(length * 4, limit)) {
    const bytes = new Uint8Array(length);
    await file.read(offset, bytes);
    const table = parseSnapshots(bytes, header, file.name, file.length);
    if (table !== undefined) return table;
    if (length < limit) continue;
    throw invalidImage(
      file.name,
      limit === MAX_TABLE_BYTES
        ? `its snapshot table is longer than ${MAX_TABLE_BYTES} bytes`
        : `its snapshot table at ${offset} reaches past the end of the file (${file.length} bytes); it was cut off`,
    );
  }
}

/**
 * Reads a table.
 *
 * @param bytes what lies where the header says that the table begins, or a prefix of it
 * @returns undefined when the table is longer than `bytes`
 * @throws {StreamdiskError} `invalid-image`
 */
export function parseSnapshots(
  bytes: Uint8Array,
  header: Qcow2Header,
  node: string,
  fileLength: number,
): SnapshotTable | undefined {
  const view = viewOf(bytes);
  const list: Snapshot[] = [];
  let at = 0;
  for (let index = 0; index < header.snapshots.count; index++) {
    if (at + MIN_SNAPSHOT_BYTES > bytes.length) return undefined;
    const extra = view.getUint32(at + 36);
    if (extra > MAX_EXTRA_BYTES) {
      throw invalidImage(node, `its snapshot ${index} has ${extra} bytes of extra data, more than ${MAX_EXTRA_BYTES}`);
    }
    const end = at + MIN_SNAPSHOT_BYTES + extra + view.getUint16(at + 12) + view.getUint16(at + 14);
    if (end > bytes.length) return undefined;
    const snapshot = parseEntry(bytes.subarray(at, end), header);
    checkL1(snapshot, header, node, fileLength);
    list.push(snapshot);
    at = Math.ceil(end / 8) * 8;
  }
  const table: SnapshotTable = { list, length: at };
  checkOverlap(table, header, node);
  return table;
}

/** Reads the L1 table of a snapshot, as it is on disk. */
export async function readSnapshotL1(file: BlockNode, { l1Offset, l1Entries }: Snapshot): Promise<Uint8Array> {
  const bytes = new Uint8Array(l1Entries * 8);
  if (bytes.length > 0) await file.read(l1Offset, bytes);
  return bytes;
}

function parseEntry(entry: Uint8Array, header: Qcow2Header): Snapshot {
  const view = viewOf(entry);
  const idAt = MIN_SNAPSHOT_BYTES + view.getUint32(36);
  const nameAt = idAt + view.getUint16(12);
  const has = (field: number) => field + 8 <= idAt;
  const text = new TextDecoder();
  const clock = view.getBigUint64(24);
  const icount = has(ICOUNT) ? view.getBigUint64(ICOUNT) : NO_ICOUNT;
  const details: SnapshotDetails = {
    id: text.decode(entry.subarray(idAt, nameAt)),
    name: text.decode(entry.subarray(nameAt)),
    "vm-state-size": has(LARGE_VM_STATE) ? getUint64(view, LARGE_VM_STATE) : view.getUint32(32),
    "date-sec": view.getUint32(16),
    "date-nsec": view.getUint32(20),
    "vm-clock-sec": Number(clock / SECOND),
    "vm-clock-nsec": Number(clock % SECOND),
    ...(icount === NO_ICOUNT ? {} : { icount: Number(icount) }),
  };
  return {
    name: details.name,
    details,
    l1Offset: getUint64(view, 0),
    l1Entries: view.getUint32(8),
    diskSize: has(DISK_SIZE) ? getUint64(view, DISK_SIZE) : header.size,
  };
}

function checkL1(
  { name, l1Offset, l1Entries }: Snapshot,
  { clusterSize }: Qcow2Header,
  node: string,
  fileLength: number,
): void {
  const bytes = l1Entries * 8;
  const what = `the L1 table (${bytes} bytes at ${l1Offset}) of its snapshot '${name}'`;
  if (bytes > MAX_L1_BYTES) throw invalidImage(node, `${what} has more than ${MAX_L1_BYTES} bytes`);
  if (bytes === 0) return;
  if (l1Offset % clusterSize !== 0)
    throw invalidImage(node, `${what} is not aligned to clusters of ${clusterSize} bytes`);
  if (l1Offset + bytes > fileLength) {
    throw invalidImage(node, `${what} reaches past the end of the file (${fileLength} bytes); it was cut off`);
  }
}

function checkOverlap({ list, length }: SnapshotTable, header: Qcow2Header, node: string): void {
  // What the header alone says was checked with it, and may overlap when the image was opened for check.
  const regions = header.damage.length > 0 ? [] : headerRegions(header).slice(0, -1);
  regions.push({ what: "snapshot table", offset: header.snapshots.offset, length });
  for (const { name, l1Offset, l1Entries } of list) {
    regions.push({ what: `L1 table of snapshot '${name}'`, offset: l1Offset, length: l1Entries * 8 });
  }
  const overlap = findOverlap(regions, header.clusterSize);
  if (overlap !== undefined) throw invalidImage(node, overlap);
}
