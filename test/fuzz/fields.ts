/**
 * Where the numbers of a sound image lie, for a mutator to put others there: header fields, entries of all tables, snapshots,
 * bitmaps. It finds them by the specifications alone, with none of the code under test.
 */
import type { CorpusImage } from "./corpus.ts";

export interface Field {
  readonly at: number;
  readonly bytes: 1 | 2 | 4 | 8;
}

export interface FieldMap {
  readonly littleEndian: boolean;
  readonly clusterSize: number;
  /** By the structure that they belong to, so that a large table is not drawn more often than the header. */
  readonly groups: readonly (readonly Field[])[];
  /** Offsets of all metadata: what an entry could be made to point to. */
  readonly places: readonly number[];
}

const OFFSET = 0x00fffffffffffe00n;

export function fieldsOf({ format, bytes }: CorpusImage): FieldMap {
  const map = format === "qed" ? qedFields(bytes) : qcow2Fields(bytes);
  // The last table may be cut short by the end of the file.
  const groups = map.groups.map((group) => group.filter(({ at, bytes: width }) => at + width <= bytes.length));
  return { ...map, groups: groups.filter((group) => group.length > 0) };
}

function qcow2Fields(bytes: Uint8Array): FieldMap {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = (at: number) => Number(view.getBigUint64(at) & OFFSET);
  const clusterSize = 2 ** view.getUint32(20);
  const version = view.getUint32(4);
  const l1 = { at: long(40), entries: view.getUint32(36) };
  const refcounts = { at: long(48), entries: (view.getUint32(56) * clusterSize) / 8 };
  const groups: Field[][] = [
    fields(4, 0, 4, 16, 20, 32, 36, 56, 60).concat(fields(8, 8, 24, 40, 48, 64)),
    entries(l1.at, l1.entries),
    entries(refcounts.at, Math.min(refcounts.entries, 4)),
  ];
  const places = [0, l1.at, refcounts.at];
  if (version === 3) {
    groups.push(fields(8, 72, 80, 88).concat(fields(4, 96, 100), fields(1, 79, 104)));
    groups.push(...extensionFields(view));
  }
  const tables = new Set<number>();
  const addTables = (at: number, count: number) => {
    for (let index = 0; index < count; index++) {
      const table = long(at + index * 8);
      if (table !== 0 && table + clusterSize <= bytes.length) tables.add(table);
    }
  };
  addTables(l1.at, l1.entries);
  for (let index = 0; index < refcounts.entries; index++) {
    const block = long(refcounts.at + index * 8);
    if (block === 0) continue;
    places.push(block);
    groups.push(entries(block, 8));
  }
  let at = long(64);
  for (let snapshot = 0; snapshot < view.getUint32(60); snapshot++) {
    groups.push(
      fields(8, at, at + 40, at + 48).concat(fields(4, at + 8, at + 32, at + 36), fields(2, at + 12, at + 14)),
    );
    const table = { at: long(at), entries: view.getUint32(at + 8) };
    groups.push(entries(table.at, table.entries));
    places.push(at, table.at);
    addTables(table.at, table.entries);
    const end = at + 40 + view.getUint32(at + 36) + view.getUint16(at + 12) + view.getUint16(at + 14);
    at = Math.ceil(end / 8) * 8;
  }
  for (const table of tables) {
    groups.push(usedEntries(view, table, clusterSize / 8));
    places.push(table);
  }
  return { littleEndian: false, clusterSize, groups, places };
}

/** Type and length of each extension; of the bitmaps one its fields and its directory. */
function extensionFields(view: DataView): Field[][] {
  const groups: Field[][] = [];
  for (let at = view.getUint32(100); at + 8 <= 4096 && at + 8 <= view.byteLength; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    groups.push(fields(4, at, at + 4));
    if (type === 0) break;
    if (type === 0x23852875) {
      const directory = Number(view.getBigUint64(at + 24));
      groups.push(fields(8, at + 16, at + 24).concat(fields(4, at + 8, at + 12)));
      groups.push(
        fields(8, directory).concat(
          fields(4, directory + 8, directory + 12, directory + 20),
          fields(2, directory + 18),
        ),
      );
      groups.push(entries(Number(view.getBigUint64(directory)), 4));
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return groups;
}

function qedFields(bytes: Uint8Array): FieldMap {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const clusterSize = view.getUint32(4, true);
  const tableEntries = (clusterSize * view.getUint32(8, true)) / 8;
  const l1 = Number(view.getBigUint64(40, true));
  const groups = [
    fields(4, 0, 4, 8, 12, 56, 60).concat(fields(8, 16, 24, 32, 40, 48)),
    entries(l1, 4).concat(entries(l1 + (tableEntries - 1) * 8, 1)),
  ];
  const places = [0, l1];
  for (let index = 0; index < tableEntries; index++) {
    const table = Number(view.getBigUint64(l1 + index * 8, true));
    if (table === 0) continue;
    places.push(table);
    groups.push(usedEntries(view, table, tableEntries));
  }
  return { littleEndian: true, clusterSize, groups, places };
}

function fields(size: Field["bytes"], ...places: readonly number[]): Field[] {
  return places.map((at) => ({ at, bytes: size }));
}

function entries(at: number, count: number): Field[] {
  return Array.from({ length: count }, (_, index): Field => ({ at: at + index * 8, bytes: 8 }));
}

/** Entries that are something, and a few that are nothing. */
function usedEntries(view: DataView, at: number, count: number): Field[] {
  let empty = 0;
  return entries(at, count).filter((field) => view.getBigUint64(field.at) !== 0n || empty++ < 4);
}
