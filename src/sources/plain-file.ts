/**
 * Opening what an image may lie in, a regular file or a block device, and nothing else: to open a FIFO waits for its other
 * end, to open a character device may act on it (a tape rewinds, a watchdog arms). So the kind is looked at before, and again
 * after, lest it was swapped; O_NONBLOCK keeps the second look from waiting and means nothing to a file.
 */
import { type BigIntStats, close, constants, fstat, fsync, open } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import type { FileIdentity } from "../host/index.ts";

/** An open descriptor, and what it leads to. */
export interface PlainFile {
  readonly fd: number;
  /** A regular file's length; 0 for a block device. */
  readonly size: number;
  /** The number of a block device; undefined for a regular file. */
  readonly rdev: number | undefined;
  readonly identity: FileIdentity;
}

const openAsync = promisify(open);
const closeAsync = promisify(close);
const fsyncAsync = promisify(fsync);
const fstatAsync = promisify((fd: number, callback: (error: NodeJS.ErrnoException | null, stat: BigIntStats) => void) =>
  fstat(fd, { bigint: true }, callback),
);

const NEW_FILE_MODE = 0o644;

/** @throws {StreamdiskError} as openFile says */
export async function openPlainFile(path: string, readOnly: boolean, create: boolean): Promise<PlainFile> {
  let fd: number | undefined;
  try {
    if (!create) requirePlain(await stat(path, { bigint: true }), path);
    const flags =
      (readOnly ? constants.O_RDONLY : constants.O_RDWR) |
      constants.O_NONBLOCK |
      (create ? constants.O_CREAT | constants.O_EXCL : 0);
    fd = await openAsync(path, flags, NEW_FILE_MODE);
    const facts = await fstatAsync(fd);
    requirePlain(facts, path);
    return {
      fd,
      size: facts.isFile() ? Number(facts.size) : 0,
      rdev: facts.isFile() ? undefined : Number(facts.rdev),
      identity: facts.isFile()
        ? { dev: facts.dev, ino: facts.ino, birthtimeNs: facts.birthtimeNs }
        : { dev: facts.rdev, ino: 0n, birthtimeNs: 0n },
    };
  } catch (error) {
    if (fd !== undefined) await closeFile(fd);
    throw wrapSystemError(error, path, create ? "create" : "open", { operation: create ? "create" : "open" });
  }
}

/** A file's length now. */
export async function fileLength(fd: number): Promise<number> {
  return Number((await fstatAsync(fd)).size);
}

/** The space that a file takes up. */
export async function fileSpace(fd: number): Promise<number> {
  return Number((await fstatAsync(fd)).blocks) * 512;
}

/** Closes; what is on disk does not depend on whether that succeeds. */
export async function closeFile(fd: number): Promise<void> {
  await closeAsync(fd).catch(() => {});
}

/** Makes the name of a new file survive the loss of power. */
export async function flushDirectoryOf(path: string): Promise<void> {
  const fd = await openAsync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await fsyncAsync(fd);
  } catch (error) {
    // Some network file systems have no fsync for directories: their names are durable at once, or not for us to decide.
    if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
  } finally {
    await closeFile(fd);
  }
}

function requirePlain(facts: BigIntStats, path: string): void {
  if (facts.isFile() || facts.isBlockDevice()) return;
  const kind = facts.isDirectory()
    ? "a directory"
    : facts.isFIFO()
      ? "a named pipe"
      : facts.isSocket()
        ? "a socket"
        : facts.isCharacterDevice()
          ? "a character device"
          : "not a file";
  const message = `'${path}' is ${kind}: an image must be a regular file or a block device`;
  throw new StreamdiskError("invalid-argument", message, { node: path, operation: "open" });
}
