/**
 * Opens the database of a store, makes a new one, brings an older one up to date, and goes on without the records that are damaged. Whoever
 * calls has the state directory's lock, so nobody else does the same.
 *
 * - A new database is complete before it gets its name: one that is empty, or has a log but no file, is a damaged one.
 * - The header of the file says which schema it has, and is read as plain bytes: SQLite may change a file by opening it, and
 *   without its log the rest of it may be in the middle of a checkpoint. So a newer one is left untouched. That holds as the schema
 *   never changes in WAL mode: the header would be in the log.
 * - Before a step of the schema the whole is copied to `state.db.schema-N`.
 * - Everything is read once and its sums compared: SQLite alone would not see a flipped byte in a record.
 * - Records that are not as they were written are lost, and each is told of: the damaged database is copied aside, and what is in order is
 *   put into a new one (`salvage.ts`), which has its indexes made anew. That is done unasked only when SQLite finds its structure whole:
 *   otherwise nobody knows what else is missing, or whether a page is an old one, and its owner has to ask for it.
 */
import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { StreamdiskError } from "../errors/index.ts";
import { copyAside, copyDatabase, createDatabase, isThere } from "./database-files.ts";
import { lostInLog } from "./log-damage.ts";
import { lostRows, raiseSequence, type Salvage, salvage } from "./salvage.ts";
import { APPLICATION_ID, MIGRATIONS, migrate, schemaText } from "./schema.ts";
import { damaged, isSenseless, storeError, verifyError } from "./sqlite-error.ts";
import { damageOf, type StoreDamage } from "./store-damage.ts";

export interface OpenDatabaseOptions {
  /** Begins anew with what can be read when the structure of a database is damaged. @default false */
  readonly rebuild?: boolean;
  /** @default all there are */
  readonly migrations?: readonly string[];
}

export interface OpenedDatabase {
  readonly db: DatabaseSync;
  /** What was done that its owner should know, as sentences. */
  readonly notes: readonly string[];
  /** What was damaged and is lost. */
  readonly damage: readonly StoreDamage[];
  /** Whether it was begun anew, so that nobody knows all that is lost. */
  readonly rebuilt: boolean;
}

const HEADER_BYTES = 100;

/**
 * @throws {StreamdiskError} `invalid-store`; `unsupported` for one of a newer version; `in-use`, `no-space`, `permission`, `io`
 */
export function openDatabase(path: string, options: OpenDatabaseOptions = {}): OpenedDatabase {
  const migrations = options.migrations ?? MIGRATIONS;
  const nothing = { notes: [], damage: [], rebuilt: false };
  try {
    if (isThere(path)) return { ...nothing, ...openExisting(path, migrations) };
    createDatabase(path, migrations);
    return { ...nothing, db: opened(new DatabaseSync(path)) };
  } catch (error) {
    const problem = storeError(error, path, "open");
    if (!options.rebuild || !(problem instanceof StreamdiskError) || problem.code !== "invalid-store") throw problem;
    // Followers of events that were numbered by the old store go on from their last id: the new ones come after it.
    const { aside, found } = mend(path, migrations, Date.now());
    const damage = [{ message: problem.message }, ...damageOf(found, aside)];
    return { ...nothing, db: opened(new DatabaseSync(path)), damage, rebuilt: true };
  }
}

function openExisting(path: string, migrations: readonly string[]): Omit<OpenedDatabase, "rebuilt"> {
  if (!existsSync(path)) throw damaged(path, "its file is gone, and its log is there");
  refuseStrange(path, migrations.length);
  const damage = logDamage(path);
  let db = new DatabaseSync(path);
  try {
    db.exec("PRAGMA locking_mode = EXCLUSIVE");
    const version = Number(db.prepare("PRAGMA user_version").get()?.user_version);
    if (!isWhole(db, path, migrations.slice(0, version))) {
      db.close();
      const { aside, found } = mend(path, migrations.slice(0, version));
      damage.push(...damageOf(found, aside));
      db = new DatabaseSync(path);
    }
    const notes = version < migrations.length ? [upgrade(db, path, version, migrations)] : [];
    return { db: opened(db), notes, damage };
  } catch (error) {
    if (db.isOpen) db.close();
    throw error;
  }
}

/** The log is as SQLite finds it: what is damaged in it is kept aside, since SQLite drops it. */
function logDamage(path: string): StoreDamage[] {
  const lost = lostInLog(path);
  if (lost === 0) return [];
  const what = `what was written down last is lost, ${lost} changes at least`;
  return [{ message: `The log of the store was damaged: ${what}; a copy as it was is '${copyAside(path)}'` }];
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
  // SQLite would open one that it may only read.
  if (![18, 19].every((at) => [1, 2].includes(header[at] ?? 0))) throw damaged(path, "its header is broken");
  if (version <= newest) return;
  const message =
    `The store '${path}' is of a newer streamdisk (schema ${version}; this one knows ${newest}): ` +
    "run that one, or name another state directory. Nothing was changed";
  throw new StreamdiskError("unsupported", message, { node: path });
}

/**
 * Whether all is as it was written.
 *
 * @throws {StreamdiskError} `invalid-store` when the structure itself is damaged
 */
function isWhole(db: DatabaseSync, path: string, migrations: readonly string[]): boolean {
  try {
    using model = new DatabaseSync(":memory:");
    migrate(model, 0, migrations);
    if (schemaText(db) !== schemaText(model)) throw damaged(path, "its tables are not those of a store");
    const findings = integrityOf(db);
    const broken = findings.find((finding) => !OF_A_RECORD.test(finding));
    if (broken !== undefined) throw damaged(path, broken);
    return findings.length === 0 && lostRows(db).length === 0;
  } catch (error) {
    throw verifyError(error, path);
  }
}

/** What SQLite finds when the bytes of a record are others: then the record is not what the indexes say of it. */
const OF_A_RECORD =
  /^(row \d+ missing from index|wrong # of entries in index|non-unique entry in index|[\w-]+ value in|malformed JSON)/i;

/** What SQLite finds wrong: pages first, then what stands in them. A record that is no JSON any more is where it stops. */
function integrityOf(db: DatabaseSync): string[] {
  const findings: string[] = [];
  try {
    for (const row of db.prepare("PRAGMA integrity_check").iterate()) findings.push(String(row.integrity_check));
  } catch (error) {
    if (!isSenseless(error)) throw error;
    findings.push((error as Error).message);
  }
  return findings.filter((finding) => finding !== "ok");
}

/**
 * Copies a damaged database aside, and puts one into its place that has what can be read of it.
 *
 * @param lastEvent the id after which those of new events come at least
 */
function mend(path: string, migrations: readonly string[], lastEvent = 0): { aside: string; found: Salvage } {
  const aside = copyAside(path);
  let found: Salvage = { lost: [], broken: [] };
  createDatabase(path, migrations, (db) => {
    try {
      using old = new DatabaseSync(path);
      old.exec("PRAGMA locking_mode = EXCLUSIVE");
      found = salvage(old, db);
    } catch (error) {
      if (!(error as { errcode?: number }).errcode) throw error;
      // It is no database any more.
    }
    raiseSequence(db, "event", lastEvent);
  });
  return { aside, found };
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

/** Ready for use: every transaction is durable when it has ended. */
function opened(db: DatabaseSync): DatabaseSync {
  db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  return db;
}
