/** What SQLite's errors mean (its "Result and Error Codes"), in the words of everybody else here. */
import { type ErrorCode, StreamdiskError, wrapSystemError } from "../errors/index.ts";

const SQLITE_ERROR = 1;
const SQLITE_BUSY = 5;
const SQLITE_CONSTRAINT = 19;
/** Extended codes: of an I/O error, the part that failed. This one is met when there is no room for the index of the log. */
const SQLITE_IOERR_SHMSIZE = 4874;

const MEANING: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  3: ["permission", "permission denied"],
  5: ["in-use", "another program has it open"],
  6: ["in-use", "another program has it open"],
  8: ["permission", "it can only be read"],
  11: ["invalid-store", "its structure is broken"],
  13: ["no-space", "no space left on the device"],
  14: ["permission", "it cannot be opened"],
  26: ["invalid-store", "it is not a database"],
};

/** Whether somebody else holds the lock. */
export function isLocked(error: unknown): boolean {
  return (resultCode(error) ?? 0) % 256 === SQLITE_BUSY;
}

/** Whether a record would have had what belongs to another. */
export function isConflict(error: unknown): boolean {
  return (resultCode(error) ?? 0) % 256 === SQLITE_CONSTRAINT;
}

/**
 * The error of a store at `path`, for one of SQLite or of node:fs.
 *
 * @param doing what failed, as a clause without subject: "write to"
 */
export function storeError(error: unknown, path: string, doing: string): Error {
  const result = resultCode(error);
  if (result === undefined) return wrapSystemError(error, path, doing);
  const known = result === SQLITE_IOERR_SHMSIZE ? MEANING[13] : MEANING[result % 256];
  const [code, why] = known ?? ["io", error instanceof Error ? error.message : String(error)];
  if (code === "invalid-store") return damaged(path, why, error);
  return new StreamdiskError(code, `Could not ${doing} '${path}': ${why}`, { node: path, operation: doing }, error);
}

/** Whether SQLite or Node.js cannot make sense of a value. */
export function isSenseless(error: unknown): error is Error {
  return resultCode(error) === SQLITE_ERROR || error instanceof RangeError;
}

/**
 * The error of a look through a whole store. What SQLite or Node.js cannot make sense of there (a text that is no JSON, a number that
 * is no safe integer) is damage, since the look itself is in order.
 */
export function verifyError(error: unknown, path: string): Error {
  return isSenseless(error) ? damaged(path, (error as Error).message, error) : storeError(error, path, "read");
}

/** The store at `path` cannot be believed. */
export function damaged(path: string, why: string, cause?: unknown): StreamdiskError {
  const message =
    `The daemon's store '${path}' is damaged: ${why}. Put a copy of it back, or begin anew with 'streamdisk daemon --rebuild-store', ` +
    "which copies it aside, keeps what can be read of it, and makes disks of the images in the image directory that have none. No image is touched";
  return new StreamdiskError("invalid-store", message, { node: path }, cause);
}

function resultCode(error: unknown): number | undefined {
  return (error as { errcode?: number } | undefined)?.errcode;
}
