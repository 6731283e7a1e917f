/** Looks for guest data where metadata lies: all that the header and the active tables point to. */
import type { BlockNode } from "../../src/block/index.ts";

/** Bytes that no metadata has. */
export const MARKER: Buffer = Buffer.from("\u00bfguest data 12\u00bf", "latin1");

interface Area {
  readonly what: string;
  readonly at: number;
  readonly length: number;
}

const ALL = 2n ** 64n - 1n;
const COPIED = 2n ** 63n;
const COMPRESSED = 2n ** 62n;
/** The bits of an entry that are an offset. */
const HOST = 0x00ff_ffff_ffff_fe00n;
const PIECE = 65536;
const MOST_AREAS = 20_000;

/** @returns the name of the structure that it was found in */
export async function findMarker(format: "qcow2" | "qed", file: BlockNode): Promise<string | undefined> {
  let areas = 0;
  for await (const { what, at, length } of format === "qed" ? qedAreas(file) : qcow2Areas(file)) {
    if (++areas > MOST_AREAS) return undefined;
    const bytes = await read(file, at, Math.min(length, PIECE));
    if (Buffer.from(bytes).includes(MARKER)) return `${what} at ${at}`;
  }
  return undefined;
}

/** Whether a qcow2 image counts references to clusters past the end of its file, which no check looks at. */
export async function countsPastEnd(file: BlockNode): Promise<boolean> {
  const header = view(await read(file, 0, 104));
  const version = header.getUint32(4);
  const clusterSize = 2 ** header.getUint32(20);
  const bits = version === 3 ? 2 ** header.getUint32(96) : 16;
  const perBlock = (clusterSize * 8) / bits;
  const end = Math.ceil(file.length / clusterSize);
  const table = view(
    await read(file, Number(header.getBigUint64(48)), Math.min(header.getUint32(56) * clusterSize, PIECE)),
  );
  for (let region = 0; region * 8 + 8 <= table.byteLength; region++) {
    const host = Number(table.getBigUint64(region * 8));
    const from = Math.max(0, end - region * perBlock);
    if (host === 0 || from >= perBlock) continue;
    const block = await read(file, host, clusterSize);
    // A byte may hold counts before the end as well: then it is not certain.
    if (block.subarray(Math.floor((from * bits) / 8)).some((byte) => byte !== 0)) return true;
  }
  return false;
}

/**
 * Whether a qcow2 image maps a cluster or a table twice in its active tables, or one that holds compressed data as well. No program
 * makes that, but with as high a count it is no damage; when one of the two is written to, the other is left with a count of one and
 * without its mark.
 */
export async function mapsTwice(file: BlockNode): Promise<boolean> {
  const header = view(await read(file, 0, 104));
  const clusterBits = header.getUint32(20);
  const entryBytes = header.getUint32(4) === 3 && (header.getUint8(79) & 16) !== 0 ? 16 : 8;
  const whole = new Set<bigint>();
  const packed = new Set<bigint>();
  const isNew = (host: bigint): boolean => host === 0n || (!whole.has(host) && whole.add(host) !== undefined);
  const l1 = view(await read(file, Number(header.getBigUint64(40)), Math.min(header.getUint32(36) * 8, PIECE)));
  for (let index = 0; index + 8 <= l1.byteLength; index += 8) {
    const table = l1.getBigUint64(index) & HOST;
    if (!isNew(table)) return true;
    if (table === 0n) continue;
    const l2 = view(await read(file, Number(table), 2 ** clusterBits));
    for (let at = 0; at + 8 <= l2.byteLength; at += entryBytes) {
      const entry = l2.getBigUint64(at);
      if ((entry & COMPRESSED) !== 0n) for (const cluster of packedClusters(entry, clusterBits)) packed.add(cluster);
      else if (!isNew(entry & HOST)) return true;
    }
  }
  return [...packed].some((cluster) => whole.has(cluster));
}

/** Where the clusters begin that compressed data lies in (docs/interop/qcow2, "Compressed Clusters Descriptor"). */
function packedClusters(entry: bigint, clusterBits: number): bigint[] {
  const offsetBits = BigInt(62 - (clusterBits - 8));
  const from = BigInt.asUintN(Number(offsetBits), entry);
  const sectors = BigInt.asUintN(clusterBits - 8, entry >> offsetBits);
  const last = (from & ~511n) + sectors * 512n;
  const mask = ~(2n ** BigInt(clusterBits) - 1n);
  return [from & mask, last & mask];
}

async function* qcow2Areas(file: BlockNode): AsyncGenerator<Area, void, undefined> {
  const header = view(await read(file, 0, 104));
  if (header.byteLength < 72) return;
  const clusterSize = 2 ** Math.min(21, header.getUint32(20));
  const entryBytes = header.getUint32(4) === 3 && (header.getUint8(79) & 16) !== 0 ? 16 : 8;
  const needed = Math.ceil(Number(header.getBigUint64(24)) / ((clusterSize / entryBytes) * clusterSize));
  const l1Entries = Math.min(header.getUint32(36), needed);
  // Of a header without a backing file's name and extensions only the fields are certain.
  yield { what: "the header", at: 0, length: 104 };
  const tables = [
    // What an entry past the virtual size points to may be anything.
    { what: "L1 table", item: "L2 table", at: Number(header.getBigUint64(40)), length: l1Entries * 8 },
    {
      what: "refcount table",
      item: "refcount block",
      at: Number(header.getBigUint64(48)),
      length: header.getUint32(56) * clusterSize,
    },
  ];
  for (const { what, item, at, length } of tables) {
    yield { what: `the ${what}`, at, length };
    const table = view(await read(file, at, Math.min(length, PIECE)));
    for (let entry = 0; entry + 8 <= table.byteLength; entry += 8) {
      // An entry with other high bits is no entry.
      const host = Number(table.getBigUint64(entry) & (item === "L2 table" ? ~COPIED : ALL));
      if (host !== 0 && host % clusterSize === 0) yield { what: `a ${item}`, at: host, length: clusterSize };
    }
  }
}

async function* qedAreas(file: BlockNode): AsyncGenerator<Area, void, undefined> {
  const header = view(await read(file, 0, 64));
  if (header.byteLength < 64) return;
  yield { what: "the header", at: 0, length: 64 };
  const tableBytes = header.getUint32(4, true) * header.getUint32(8, true);
  const l1 = Number(header.getBigUint64(40, true));
  yield { what: "the L1 table", at: l1, length: tableBytes };
  const entries = Math.ceil(Number(header.getBigUint64(48, true)) / ((tableBytes / 8) * header.getUint32(4, true)));
  const table = view(await read(file, l1, Math.min(entries * 8, tableBytes, PIECE)));
  for (let entry = 0; entry + 8 <= table.byteLength; entry += 8) {
    const host = Number(table.getBigUint64(entry, true));
    if (host !== 0 && host % header.getUint32(4, true) === 0)
      yield { what: "an L2 table", at: host, length: tableBytes };
  }
}

async function read(file: BlockNode, at: number, length: number): Promise<Uint8Array> {
  const inside = Math.max(0, Math.min(length, file.length - at));
  const bytes = new Uint8Array(inside);
  if (inside > 0) await file.read(at, bytes);
  return bytes;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
