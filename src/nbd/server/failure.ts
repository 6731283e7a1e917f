/** What a failure inside means to a client. */
import { type ErrorCode, StreamdiskError } from "../../errors/index.ts";
import { COMMAND_FLAG, NBD_ERROR } from "../protocol.ts";
import type { Refusal, RequestHeader } from "./request.ts";

/** The error value of an error, by the table of errors. ENOTSUP is kept for those who asked for fast zeroes. */
export function failureOf(error: unknown, { flags }: Pick<RequestHeader, "flags">): Refusal {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Error && error.name === "AbortError") return { value: NBD_ERROR.ESHUTDOWN, message };
  if (!(error instanceof StreamdiskError)) return { value: NBD_ERROR.EIO, message };
  const value: number = error.row.nbd;
  const unexpected = value === NBD_ERROR.ENOTSUP && (flags & COMMAND_FLAG.FAST_ZERO) === 0;
  return { value: unexpected ? NBD_ERROR.EINVAL : value, message };
}

const CODES: Readonly<Partial<Record<number, ErrorCode>>> = {
  [NBD_ERROR.EPERM]: "permission",
  [NBD_ERROR.ENOSPC]: "no-space",
  [NBD_ERROR.ENOTSUP]: "unsupported",
  [NBD_ERROR.ESHUTDOWN]: "shutdown",
};

/** A refusal as an error, for whoever watches the server. */
export function errorOf({ value, message }: Refusal): StreamdiskError {
  return new StreamdiskError(CODES[value] ?? "invalid-argument", message);
}
