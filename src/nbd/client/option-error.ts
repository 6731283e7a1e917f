import { type ErrorCode, StreamdiskError } from "../../errors/index.ts";
import { REPLY } from "../protocol.ts";
import type { OptionEnd } from "./handshake-channel.ts";

interface Meaning {
  readonly code: ErrorCode;
  /** A clause that follows the server's name. */
  readonly text: string;
}

/** What a server's refusal of an option means; `what` is what was asked for. */
function meaningOf(type: number, what: string): Meaning {
  switch (type) {
    case REPLY.ERR_UNSUP:
      return { code: "unsupported", text: `can't give ${what}` };
    case REPLY.ERR_POLICY:
      return { code: "refused", text: `is not allowed to give ${what}` };
    case REPLY.ERR_TLS_REQD:
      return { code: "refused", text: `gives ${what} only over TLS: use an nbds:// URI` };
    case REPLY.ERR_UNKNOWN:
      return { code: "not-found", text: `does not have ${what}` };
    case REPLY.ERR_SHUTDOWN:
      return { code: "source-lost", text: "is shutting down" };
    case REPLY.ERR_PLATFORM:
      return { code: "unsupported", text: `can't give ${what} on its platform` };
    case REPLY.ERR_BLOCK_SIZE_REQD:
      return { code: "unsupported", text: `gives ${what} only to who asks for its block sizes, which was done` };
    case REPLY.ERR_TOO_BIG:
      return { code: "refused", text: `finds the request for ${what} too large` };
    default:
      return { code: "refused", text: `refuses ${what} with error ${type - 0x80000000}` };
  }
}

/**
 * The error for an option that the server refused.
 *
 * @param exportName the export that was asked for; undefined for the list of them
 */
export function optionError(node: string, exportName: string | undefined, end: OptionEnd): StreamdiskError {
  const what =
    exportName === undefined
      ? "a list of its exports"
      : exportName === ""
        ? "a default export"
        : `an export '${exportName}'`;
  const { code, text } = meaningOf(end.type, what);
  const said = end.text === "" ? "" : ` (it says: ${end.text})`;
  return new StreamdiskError(code, `The server of '${node}' ${text}${said}`, { node, operation: "connect" });
}
