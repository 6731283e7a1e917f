/**
 * What can still be read of a damaged database. A row is believed when its sum is right; no index is asked, since an index may be what is
 * damaged. A table is walked from its beginning, and from its end when a page in the middle cannot be read.
 */
import type { DatabaseSync } from "node:sqlite";
import { fromRow } from "./row.ts";
import { RECORD_KEYS } from "./schema.ts";

/** A row that is not as it was written. */
export interface LostRow {
  readonly table: keyof typeof RECORD_KEYS;
  /** As far as it can be believed. */
  readonly key: string;
  /** What stands in its place now. */
  readonly text: string;
}

export interface Salvage {
  readonly lost: readonly LostRow[];
  /** Tables with a page that cannot be read: nobody knows what stood there. */
  readonly broken: readonly string[];
}

interface RawRow {
  readonly key: string | bigint;
  readonly record: string;
  readonly sum: bigint;
  readonly place?: bigint;
}

type Table = keyof typeof RECORD_KEYS;

/** Looks at all rows. @throws what SQLite throws when a table cannot be walked */
export function lostRows(db: DatabaseSync): LostRow[] {
  return tablesOf(db).flatMap((table) =>
    [...rowsOf(db, table, "")].filter(isDamaged).map((row) => lostRow(table, row)),
  );
}

/** Puts all rows of one database into another of the same schema. */
export function salvage(from: DatabaseSync, to: DatabaseSync): Salvage {
  const lost: LostRow[] = [];
  const broken: string[] = [];
  for (const table of tablesOf(from)) {
    const seen = new Set<string>();
    const take = (order: "" | "DESC"): boolean => {
      let last = 0n;
      try {
        for (const row of rowsOf(from, table, order)) {
          // No sum is over the number of a job, and where a job stands says in which order they came.
          const place = row.place === undefined || order !== "" || row.place > last ? row.place : last + 1n;
          last = place ?? 0n;
          const key = `${row.place ?? ""} ${row.key}`;
          if (seen.has(key)) continue;
          seen.add(key);
          if (isDamaged(row) || !put(to, table, { ...row, ...(place !== undefined && { place }) }))
            lost.push(lostRow(table, row));
        }
        return true;
      } catch {
        return false;
      }
    };
    if (take("")) continue;
    take("DESC");
    broken.push(table);
  }
  copySequences(from, to);
  return { lost, broken };
}

/** An older schema has not all of them; of one that cannot be read there are none. */
function tablesOf(db: DatabaseSync): Table[] {
  try {
    const names = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").all() as { name: string }[];
    return (Object.keys(RECORD_KEYS) as Table[]).filter((table) => names.some(({ name }) => name === table));
  } catch {
    return [];
  }
}

function rowsOf(db: DatabaseSync, table: Table, order: "" | "DESC"): Iterable<RawRow> {
  const key = RECORD_KEYS[table];
  const [place, by] = table === "job" ? ["place, ", "place"] : ["", key];
  const rows = db.prepare(
    `SELECT ${place}${key} AS key, record, sum FROM ${table} NOT INDEXED ORDER BY ${by} ${order}`,
  );
  // A damaged number may be greater than those of JavaScript.
  rows.setReadBigInts(true);
  return rows.iterate() as unknown as Iterable<RawRow>;
}

function isDamaged({ key, record, sum }: RawRow): boolean {
  return fromRow(String(key), { record, sum: Number(sum) }) === undefined;
}

function put(db: DatabaseSync, table: Table, { key, record, sum, place }: RawRow): boolean {
  const names = `${place === undefined ? "" : "place, "}${RECORD_KEYS[table]}, record, sum`;
  const values = [...(place === undefined ? [] : [place]), key, record, sum];
  const insert = db.prepare(`INSERT OR IGNORE INTO ${table} (${names}) VALUES (${values.map(() => "?").join(", ")})`);
  return insert.run(...values).changes === 1;
}

/** Ids of what was forgotten are not given again. */
function copySequences(from: DatabaseSync, to: DatabaseSync): void {
  for (const name of ["event", "job"]) {
    try {
      const row = from.prepare("SELECT seq FROM sqlite_sequence WHERE name = ?").get(name);
      if (typeof row?.seq === "number") raiseSequence(to, name, row.seq);
    } catch {
      // What the rows say counts then.
    }
  }
}

/** The next id of a table comes after `least`. */
export function raiseSequence(db: DatabaseSync, name: string, least: number): void {
  const { changes } = db.prepare("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?").run(least, name);
  if (changes === 0) db.prepare("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)").run(name, least);
}

function lostRow(table: Table, { key, record }: RawRow): LostRow {
  return { table, key: String(key), text: String(record) };
}
