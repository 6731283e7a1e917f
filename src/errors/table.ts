/**
 * The one table of errors: what each code means to a program (errno, NBD, HTTP) and to a shell (exit code).
 *
 * A code is stable: programs match on it. The exit codes above 63 are those of sysexits.h, so that they never
 * collide with the small ones that `check` and `compare` share with qemu-img.
 */

/** What an error code maps to at each of the product's edges. */
export interface ErrorRow {
  /** POSIX name, also what an operating system error would have been. */
  readonly errno: string;
  /** Error value of an NBD reply (NBD protocol, "Error values"). */
  readonly nbd: number;
  /** Status of the HTTP API. */
  readonly http: number;
  /** Exit code of the command line. */
  readonly exit: number;
  /** Whether the same call may succeed later without anyone changing the request. */
  readonly retryable: boolean;
}

const NBD_EPERM = 1;
const NBD_EIO = 5;
const NBD_EINVAL = 22;
const NBD_ENOSPC = 28;
const NBD_ENOTSUP = 95;
const NBD_ESHUTDOWN = 108;

export const ERROR_TABLE = {
  /** An argument, option or request that makes no sense. */
  "invalid-argument": { errno: "EINVAL", nbd: NBD_EINVAL, http: 400, exit: 64, retryable: false },
  /** The bytes are not a valid image: damaged, truncated, or of another format. */
  "invalid-image": { errno: "EINVAL", nbd: NBD_EIO, http: 422, exit: 65, retryable: false },
  /** The daemon's own memory is damaged. */
  "invalid-store": { errno: "EIO", nbd: NBD_EIO, http: 500, exit: 65, retryable: false },
  /** A file, export or object that is not there. */
  "not-found": { errno: "ENOENT", nbd: NBD_EIO, http: 404, exit: 66, retryable: false },
  /** Something that exists already and would be overwritten. */
  exists: { errno: "EEXIST", nbd: NBD_EINVAL, http: 409, exit: 73, retryable: false },
  /** A source that cannot be reached, or whose link broke. */
  "source-lost": { errno: "EIO", nbd: NBD_EIO, http: 503, exit: 69, retryable: true },
  /** A source that is not the one that it was: another size, another version. */
  changed: { errno: "ESTALE", nbd: NBD_EIO, http: 409, exit: 69, retryable: false },
  /** No room left where the image lies. */
  "no-space": { errno: "ENOSPC", nbd: NBD_ENOSPC, http: 507, exit: 73, retryable: true },
  /** Any other failure of the operating system to read or write. */
  io: { errno: "EIO", nbd: NBD_EIO, http: 500, exit: 74, retryable: true },
  /** The image is in use by another program. */
  "in-use": { errno: "EAGAIN", nbd: NBD_EPERM, http: 409, exit: 75, retryable: true },
  /** A peer that breaks its protocol. */
  protocol: { errno: "EPROTO", nbd: NBD_EIO, http: 502, exit: 76, retryable: true },
  /** The operating system says no: permissions, a read-only file. */
  permission: { errno: "EACCES", nbd: NBD_EPERM, http: 403, exit: 77, retryable: false },
  /** A reference that the user did not allow, or an act that would lose data. */
  refused: { errno: "EPERM", nbd: NBD_EPERM, http: 403, exit: 77, retryable: false },
  /** A feature that this program does not implement. */
  unsupported: { errno: "ENOTSUP", nbd: NBD_ENOTSUP, http: 501, exit: 77, retryable: false },
  /** The node or the process is closing. */
  shutdown: { errno: "ESHUTDOWN", nbd: NBD_ESHUTDOWN, http: 503, exit: 69, retryable: true },
} as const satisfies Record<string, ErrorRow>;

/** A stable code to match on. */
export type ErrorCode = keyof typeof ERROR_TABLE;
