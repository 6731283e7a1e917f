import { ERROR_TABLE, type ErrorCode, type ErrorRow } from "./table.ts";

/** Where it happened: what is known is filled in, in bytes. */
export interface ErrorContext {
  /** The image, file or source, as its user named it. */
  node?: string;
  operation?: string;
  offset?: number;
  length?: number;
  uri?: string;
}

/**
 * The one error class. The message is a sentence that names the object and the numbers; the code is for programs.
 *
 * @example
 * try { await openImage("disk.qcow2"); }
 * catch (e) { if (e instanceof StreamdiskError && e.code === "in-use") retryLater(); else throw e; }
 */
export class StreamdiskError extends Error {
  override readonly name = "StreamdiskError";
  readonly code: ErrorCode;
  readonly context: ErrorContext;

  constructor(code: ErrorCode, message: string, context: ErrorContext = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.context = context;
  }

  /** POSIX errno name. */
  get errno(): string {
    return this.row.errno;
  }

  /** The whole row of the error table. */
  get row(): ErrorRow {
    return ERROR_TABLE[this.code];
  }
}

/** The code of an operating system error; null when it is not one that has a meaning of its own. */
const FROM_ERRNO: Readonly<Record<string, ErrorCode>> = {
  ENOENT: "not-found",
  ENOTDIR: "not-found",
  EEXIST: "exists",
  ENOSPC: "no-space",
  EDQUOT: "no-space",
  EFBIG: "no-space",
  EACCES: "permission",
  EPERM: "permission",
  EROFS: "permission",
  ESTALE: "source-lost",
};

const WHAT: Readonly<Partial<Record<ErrorCode, string>>> = {
  "not-found": "no such file or directory",
  exists: "it exists already",
  "no-space": "no space left on the device",
  permission: "permission denied",
};

/**
 * Turns an operating system error (anything thrown by node:fs) into a StreamdiskError. A StreamdiskError and an
 * AbortError come back as they are.
 *
 * @param doing what failed, as a clause without subject: "open", "read 65536 bytes at 0"
 */
export function wrapSystemError(error: unknown, node: string, doing: string, context: ErrorContext = {}): Error {
  if (error instanceof StreamdiskError) return error;
  if (error instanceof Error && error.name === "AbortError") return error;
  const errno = (error as { readonly code?: string } | undefined)?.code;
  const code = (errno !== undefined && FROM_ERRNO[errno]) || "io";
  const said = error instanceof Error ? error.message : String(error);
  const why = errno === "EROFS" ? "the file system is read-only" : (WHAT[code] ?? said);
  return new StreamdiskError(code, `Could not ${doing} '${node}': ${why}`, { node, ...context }, error);
}
