/**
 * The tables of the store. A record is its JSON, as plain as it was given; `sum` is a CRC-32 of its key and its JSON, for SQLite has none
 * of its own. Whatever is searched for is a column that SQLite takes from the JSON, so that the two cannot disagree.
 *
 * The version of the schema is `user_version` in the header of the file. A step, once released, is never changed: a new database
 * goes through all of them, an older one through those that it lacks.
 */
import type { DatabaseSync } from "node:sqlite";

/** `application_id` in the header of the file: "stdk". */
export const APPLICATION_ID = 0x7374646b;

/** The step at index n leads from version n to version n + 1. */
export const MIGRATIONS: readonly string[] = [
  `CREATE TABLE disk (
     id TEXT NOT NULL PRIMARY KEY,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL,
     name TEXT NOT NULL UNIQUE AS (record ->> '$.name')
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE export (
     name TEXT NOT NULL PRIMARY KEY,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE job (
     place INTEGER PRIMARY KEY AUTOINCREMENT,
     id TEXT NOT NULL UNIQUE,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL,
     disk TEXT NOT NULL AS (record ->> '$.disk'),
     state TEXT NOT NULL AS (record ->> '$.state')
   ) STRICT;
   CREATE INDEX job_of_disk ON job (disk, place);
   CREATE TABLE event (
     id INTEGER PRIMARY KEY AUTOINCREMENT,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL,
     disk TEXT AS (record ->> '$.disk')
   ) STRICT;
   CREATE INDEX event_of_disk ON event (disk, id);`,
  `CREATE TABLE speed_limit (
     place TEXT NOT NULL PRIMARY KEY,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
  `CREATE TABLE domain (
     name TEXT NOT NULL PRIMARY KEY,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
  `CREATE TABLE deployment (
     name TEXT NOT NULL PRIMARY KEY,
     record TEXT NOT NULL,
     sum INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
];

/** Tables of records with their keys, over which their sums are. */
export const RECORD_KEYS = {
  disk: "id",
  export: "name",
  job: "id",
  event: "id",
  speed_limit: "place",
  domain: "name",
  deployment: "name",
} as const;

/** Takes a database through the steps from its `version` on, each whole or not at all. */
export function migrate(db: DatabaseSync, version: number, migrations: readonly string[]): void {
  migrations.slice(version).forEach((step, index) => {
    inTransaction(db, () => {
      db.exec(step);
      db.exec(`PRAGMA user_version = ${version + index + 1}`);
    });
  });
}

/** Does all of it or nothing. */
export function inTransaction<T>(db: DatabaseSync, act: () => T): T {
  db.exec("BEGIN IMMEDIATE");
  try {
    const result = act();
    db.exec("COMMIT");
    return result;
  } catch (error) {
    // Some errors (a full disk) have rolled it back already.
    if (db.isTransaction) db.exec("ROLLBACK");
    throw error;
  }
}

/** What a database says of its own tables. */
export function schemaText(db: DatabaseSync): string {
  return JSON.stringify(db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").all());
}
