/**
 * The file of the store and what SQLite lays beside it. A new database is complete before it gets its name, and one that is replaced has
 * its copy before anything of it goes: a daemon that dies in between leaves the old one, or one that is reported as damaged, never one
 * that seems to be new.
 */
import { closeSync, copyFileSync, existsSync, fsyncSync, openSync, renameSync, rmSync, truncateSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { wrapSystemError } from "../errors/index.ts";
import { APPLICATION_ID, inTransaction, migrate } from "./schema.ts";
import { storeError } from "./sqlite-error.ts";

const BESIDE = ["", "-wal", "-journal"] as const;

export function isThere(path: string): boolean {
  return BESIDE.some((end) => existsSync(path + end));
}

/**
 * Makes a database, in place of one that is there.
 *
 * @param fill what it has from the beginning
 */
export function createDatabase(
  path: string,
  migrations: readonly string[],
  fill: (db: DatabaseSync) => void = () => {},
): void {
  const unfinished = `${path}.new`;
  for (const end of BESIDE) rmSync(unfinished + end, { force: true });
  makeEmpty(unfinished);
  const db = new DatabaseSync(unfinished);
  try {
    db.exec(`PRAGMA application_id = ${APPLICATION_ID}`);
    migrate(db, 0, migrations);
    inTransaction(db, () => fill(db));
  } finally {
    db.close();
  }
  flush(unfinished);
  removeLogs(path);
  renameSync(unfinished, path);
  flush(dirname(path));
}

/** A log belongs to the database that was there: SQLite would apply it to the new one, and the old one is none without it. */
function removeLogs(path: string): void {
  const logs = BESIDE.filter((end) => end !== "" && existsSync(path + end));
  if (logs.length === 0) return;
  if (existsSync(path)) {
    truncateSync(path, 0);
    flush(path);
  }
  for (const end of logs) rmSync(path + end, { force: true });
}

/** @returns where the copy is, which nobody has open */
export function copyAside(path: string): string {
  const aside = `${path}.damaged-${new Date().toISOString().replaceAll(":", "-")}`;
  try {
    for (const end of BESIDE) {
      if (!existsSync(path + end)) continue;
      copyFileSync(path + end, aside + end);
      flush(aside + end);
    }
    flush(dirname(path));
  } catch (error) {
    throw wrapSystemError(error, path, "copy aside");
  }
  return aside;
}

/** A copy of a database that is in order, as one file. */
export function copyDatabase(db: DatabaseSync, copy: string): void {
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
