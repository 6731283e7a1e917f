import type { ErrorCode } from "../../errors/index.ts";
import { NBD_ERROR } from "../protocol.ts";

const MEANINGS: Readonly<Record<number, { readonly code: ErrorCode; readonly text: string }>> = {
  [NBD_ERROR.EPERM]: { code: "permission", text: "not permitted (EPERM)" },
  [NBD_ERROR.EIO]: { code: "io", text: "input/output error (EIO)" },
  [NBD_ERROR.ENOMEM]: { code: "io", text: "out of memory (ENOMEM)" },
  [NBD_ERROR.EINVAL]: { code: "invalid-argument", text: "invalid argument (EINVAL)" },
  [NBD_ERROR.ENOSPC]: { code: "no-space", text: "no space left (ENOSPC)" },
  [NBD_ERROR.EOVERFLOW]: { code: "invalid-argument", text: "too large (EOVERFLOW)" },
  [NBD_ERROR.ENOTSUP]: { code: "unsupported", text: "not supported (ENOTSUP)" },
  [NBD_ERROR.ESHUTDOWN]: { code: "source-lost", text: "the server is shutting down (ESHUTDOWN)" },
};

/** What an error value of a reply means; one that is not in the protocol counts as EINVAL ("Error values"). */
export function meaningOf(value: number): { readonly code: ErrorCode; readonly text: string } {
  return MEANINGS[value] ?? { code: "invalid-argument", text: `error ${value}` };
}

/** A server's words as a message may show them: one line, without control characters. */
export function plainText(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
  return text.replace(/[\s\p{Cc}\p{Cf}]+/gu, " ").trim();
}
