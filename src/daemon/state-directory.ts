/**
 * Where a daemon keeps what outlives it: one directory, which one daemon has at a time.
 *
 *   lock        an empty file. Whoever has the directory holds SQLite's exclusive lock on it: locks of fcntl(2), which fall with
 *               their process, however that ends, and hold over network file systems too
 *   state.db    the store (sqlite-store.ts), with `state.db-wal` beside it
 *   sockets/    the sockets of disks
 *   machines/   of each machine that the daemon runs its monitor, console and logs
 *
 * The lock is apart from the store so that a damaged store can be moved aside under it. Nobody may open `lock` by other means in this
 * process: closing that would let go of the lock.
 */
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  type Stats,
  statSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { isLocked, storeError } from "./sqlite-error.ts";

const WRITABLE_BY_OTHERS = 0o022;
const ENTERED_BY_OTHERS = 0o011;

export interface StateDirectory extends Disposable {
  readonly path: string;
  /** Of the store. */
  readonly database: string;
  /** Directory for the sockets of disks. */
  readonly sockets: string;
  /** Directory for those of machines, made with the first. */
  readonly machines: string;
}

export interface StateDirectoryOptions {
  /** Whether other users shall get to the sockets of disks: they may enter then, and list nothing. @default false */
  readonly enterable?: boolean;
}

/**
 * Takes a state directory, which is made when it is not there. It is let go with `[Symbol.dispose]`, or with the process.
 *
 * @throws {StreamdiskError} `in-use` by another daemon; `refused` when others may write to it; `permission`, `no-space`, `io`
 */
export function openStateDirectory(path: string, { enterable = false }: StateDirectoryOptions = {}): StateDirectory {
  const directory = resolve(path);
  const sockets = join(directory, "sockets");
  makeDirectory(directory);
  const lock = takeLock(directory);
  try {
    makeDirectory(sockets);
    if (enterable) for (const each of [directory, sockets]) letEnter(each);
  } catch (error) {
    lock.close();
    throw error;
  }
  return {
    path: directory,
    database: join(directory, "state.db"),
    sockets,
    machines: join(directory, "machines"),
    [Symbol.dispose]: () => {
      if (lock.isOpen) lock.close();
    },
  };
}

function makeDirectory(path: string): void {
  let facts: Stats;
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    facts = lstatSync(path);
  } catch (error) {
    throw wrapSystemError(error, path, "make the directory");
  }
  const uid = process.getuid?.() ?? facts.uid;
  if (facts.isDirectory() && facts.uid === uid && (facts.mode & WRITABLE_BY_OTHERS) === 0) return;
  const why =
    facts.uid === uid ? "others than its owner may write to it" : `it belongs to another user (uid ${facts.uid})`;
  throw new StreamdiskError("refused", `'${path}' cannot be a daemon's directory: ${why}`, { node: path });
}

function letEnter(path: string): void {
  try {
    chmodSync(path, (statSync(path).mode & 0o777) | ENTERED_BY_OTHERS);
  } catch (error) {
    throw wrapSystemError(error, path, "let others enter");
  }
}

function takeLock(directory: string): DatabaseSync {
  const path = join(directory, "lock");
  let lock: DatabaseSync | undefined;
  try {
    makePrivate(path);
    // SQLite would make do with a shared lock.
    accessSync(path, constants.W_OK);
    lock = new DatabaseSync(path);
    lock.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
    return lock;
  } catch (error) {
    if (lock?.isOpen) lock.close();
    if (!isLocked(error)) throw storeError(error, path, "lock");
    const message = `The state directory '${directory}' is in use by another daemon: stop that one, or name another with --state-directory`;
    throw new StreamdiskError("in-use", message, { node: directory }, error);
  }
}

/** Makes an empty file that only its owner may read, unless there is one. */
function makePrivate(path: string): void {
  try {
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw wrapSystemError(error, path, "create");
  }
}
