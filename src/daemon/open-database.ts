/**
 * Opens the database of a store, makes a new one, brings an older one up to date. Whoever calls has the state directory's lock, so
 * nobody else does the same.
 *
 * - A new database is complete before it gets its name: one that is empty, or has a log but no file, is a damaged one.
 * - The header of the file says which schema it has, and is read as plain bytes: SQLite may change a file by opening it, and
 *   without its log the rest of it may be in the middle of a checkpoint. So a newer one is left untouched. That holds as the schema
 *   never changes in WAL mode: the header would be in the log.
 * - Before a step of the schema the whole is copied to `state.db.schema-N`.
 * - Everything is read once and its sums compared: SQLite alone would not see a flipped byte in a record.
 */
import { closeSync, existsSync, fsyncSync, openSync, readSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { fromRow, type Row } from "./row.ts";
import { APPLICATION_ID, inTransaction, MIGRATIONS, migrate, schemaText } from "./schema.ts";
import { damaged, storeError, verifyError } from "./sqlite-error.ts";

export interface OpenDatabaseOptions {
  /** Moves a damaged database aside and begins anew. @default false */
  readonly rebuild?: boolean;
  /** @default all there are */
  readonly migrations?: readonly string[];
}

export interface OpenedDatabase {
  readonly db: DatabaseSync;
  /** What was done that its owner should know, as sentences. */
  readonly notes: readonly string[];
  /** Whether a damaged one was moved aside. */
  readonly rebuilt: boolean;
}

/** Tables with their keys, for the look at all sums. */
const KEYS = {
  ...{ disk: "id", export: "name", job: "id", event: "id", speed_limit: "place", domain: "name" },
  deployment: "name",
} as const;
const HEADER_BYTES = 100;
const BESIDE = ["", "-wal", "-journal"] as const;

/**
 * @throws {StreamdiskError} `invalid-store`; `unsupported` for one of a newer version; `in-use`, `no-space`, `permission`, `io`
 */
export function openDatabase(path: string, options: OpenDatabaseOptions = {}): OpenedDatabase {
  const migrations = options.migrations ?? MIGRATIONS;
  try {
    if (BESIDE.some((end) => existsSync(path + end))) return openExisting(path, migrations);
    return { db: opened(createDatabase(path, migrations, 0)), notes: [], rebuilt: false };
  } catch (error) {
    const problem = storeError(error, path, "open");
    if (!options.rebuild || !(problem instanceof StreamdiskError) || problem.code !== "invalid-store") throw problem;
    const aside = moveAside(path);
    // Followers of events that were numbered by the old store go on from their last id: the new ones come after it.
    const db = opened(createDatabase(path, migrations, Date.now()));
    const note = `The damaged store was moved to '${aside}', and a new one begun: ${problem.message}`;
    return { db, notes: [note], rebuilt: true };
  }
}

function openExisting(path: string, migrations: readonly string[]): OpenedDatabase {
  if (!existsSync(path)) throw damaged(path, "its file is gone, and its log is there");
  refuseStrange(path, migrations.length);
  const db = new DatabaseSync(path);
  try {
    db.exec("PRAGMA locking_mode = EXCLUSIVE");
    const version = Number(db.prepare("PRAGMA user_version").get()?.user_version);
    try {
      verify(db, path, migrations.slice(0, version));
    } catch (error) {
      throw verifyError(error, path);
    }
    const notes = version < migrations.length ? [upgrade(db, path, version, migrations)] : [];
    return { db: opened(db), notes, rebuilt: false };
  } catch (error) {
    db.close();
    throw error;
  }
}

/** Looks at the header ("Database File Format", section 1.3), and leaves every file as it is. */
function refuseStrange(path: string, newest: number): void {
  const header = Buffer.alloc(HEADER_BYTES);
  const fd = openSync(path, "r");
  try {
    const bytes = readSync(fd, header, 0, HEADER_BYTES, 0);
    if (bytes < HEADER_BYTES || header.toString("latin1", 0, 16) !== "SQLite format 3\0") {
      throw damaged(path, "it is not a database");
    }
  } finally {
    closeSync(fd);
  }
  const version = header.readInt32BE(60);
  if (header.readInt32BE(68) !== APPLICATION_ID || version < 1) throw damaged(path, "it is no store of streamdisk");
  if (version <= newest) return;
  const message =
    `The store '${path}' is of a newer streamdisk (schema ${version}; this one knows ${newest}): ` +
    "run that one, or name another state directory. Nothing was changed";
  throw new StreamdiskError("unsupported", message, { node: path });
}

function verify(db: DatabaseSync, path: string, migrations: readonly string[]): void {
  const found = db.prepare("PRAGMA integrity_check(1)").get()?.integrity_check;
  if (found !== "ok") throw damaged(path, String(found));
  using model = new DatabaseSync(":memory:");
  migrate(model, 0, migrations);
  if (schemaText(db) !== schemaText(model)) throw damaged(path, "its tables are not those of a store");
  for (const [table, key] of Object.entries(KEYS)) {
    // An older schema may not have it yet.
    if (db.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?").get(table) === undefined) continue;
    const rows = db.prepare(`SELECT ${key} AS key, record, sum FROM ${table}`).iterate();
    for (const row of rows as Iterable<Row & { key: string | number }>) {
      if (fromRow(row.key, row) === undefined)
        throw damaged(path, `the record of ${table} '${row.key}' is not as it was written`);
    }
  }
}

/** @returns what was done, as a sentence */
function upgrade(db: DatabaseSync, path: string, version: number, migrations: readonly string[]): string {
  const backup = `${path}.schema-${version}`;
  const steps = `from schema ${version} to ${migrations.length}`;
  db.exec("PRAGMA journal_mode = DELETE");
  copyDatabase(db, backup);
  try {
    migrate(db, version, migrations);
  } catch (error) {
    const { code, message } = storeError(error, path, "write to") as StreamdiskError;
    const told = `Could not bring the store '${path}' ${steps}: ${message}. A copy as it was is '${backup}'`;
    throw new StreamdiskError(code ?? "io", told, { node: path }, error);
  }
  return `The store '${path}' was brought ${steps}; a copy as it was is '${backup}'`;
}

function copyDatabase(db: DatabaseSync, copy: string): void {
  const unfinished = `${copy}.new`;
  try {
    makeEmpty(unfinished);
    db.prepare("VACUUM INTO ?").run(unfinished);
    flush(unfinished);
    renameSync(unfinished, copy);
    flush(dirname(copy));
  } catch (error) {
    rmSync(unfinished, { force: true });
    throw storeError(error, copy, "write");
  }
}

/** @param lastEvent the id after which those of events begin */
function createDatabase(path: string, migrations: readonly string[], lastEvent: number): DatabaseSync {
  const unfinished = `${path}.new`;
  for (const end of BESIDE) rmSync(unfinished + end, { force: true });
  makeEmpty(unfinished);
  const db = new DatabaseSync(unfinished);
  try {
    db.exec(`PRAGMA application_id = ${APPLICATION_ID}`);
    migrate(db, 0, migrations);
    inTransaction(db, () => db.prepare("INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)").run(lastEvent));
  } finally {
    db.close();
  }
  renameSync(unfinished, path);
  flush(dirname(path));
  return new DatabaseSync(path);
}

/** Ready for use: every transaction is durable when it has ended. */
function opened(db: DatabaseSync): DatabaseSync {
  db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  return db;
}

function moveAside(path: string): string {
  const aside = `${path}.damaged-${new Date().toISOString().replaceAll(":", "-")}`;
  try {
    for (const end of BESIDE) {
      if (existsSync(path + end)) renameSync(path + end, aside + end);
    }
    flush(dirname(path));
  } catch (error) {
    throw wrapSystemError(error, path, "move aside");
  }
  return aside;
}

/** Only its owner may read it: sources are named with what gives access to them. */
function makeEmpty(path: string): void {
  rmSync(path, { force: true });
  closeSync(openSync(path, "wx", 0o600));
}

function flush(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
