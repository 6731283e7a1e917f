/**
 * A request of the transmission phase as it lies on the wire, and the one function that says what is wrong with it.
 *
 * The header is decoded into an object that is used again for the next one, without a copy or a bigint. An offset of more
 * than 53 bits is not exact, but larger than any export all the same.
 */
import { COMMAND, COMMAND_FLAG, COMMAND_NAMES, getUint64, MAX_PAYLOAD, NBD_ERROR, REQUEST_MAGIC } from "../protocol.ts";

/** A request that asks for more in one piece than this (DF) is refused, and larger ones are done in pieces of it. */
export const PIECE = 1024 * 1024;

export interface RequestHeader {
  flags: number;
  command: number;
  /** The client's, sent back as it is. */
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
}

export function newRequestHeader(): RequestHeader {
  return { flags: 0, command: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
}

/** @returns false when the magic is wrong: nothing that follows can be trusted */
export function decodeRequest(view: DataView, at: number, into: RequestHeader): boolean {
  into.flags = view.getUint16(at + 4);
  into.command = view.getUint16(at + 6);
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  into.offset = getUint64(view, at + 16);
  into.length = view.getUint32(at + 24);
  return view.getUint32(at) === REQUEST_MAGIC;
}

/** What an export and its client agreed upon. */
export interface Terms {
  readonly exportName: string;
  /** Bytes, as the client was told. */
  readonly length: number;
  readonly readOnly: boolean;
  readonly structured: boolean;
  readonly caches: boolean;
  /** Whether the client has selected a metadata context. */
  readonly hasContexts: boolean;
}

/** An error that answers a request. */
export interface Refusal {
  /** Of NBD_ERROR. */
  readonly value: number;
  readonly message: string;
}

const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = COMMAND;
const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = COMMAND_FLAG;

/** Flags beside FUA, which is valid everywhere. */
const VALID_FLAGS: Readonly<Record<number, number>> = {
  [READ]: DF,
  [WRITE_ZEROES]: NO_HOLE | FAST_ZERO,
  [BLOCK_STATUS]: REQ_ONE,
};

/** What is wrong with a request (doc/proto.md, "Error values"); undefined when it can be carried out. DISC is none. */
export function refusalOf(request: RequestHeader, terms: Terms): Refusal | undefined {
  const { command, flags, offset, length } = request;
  const valid = FUA | (VALID_FLAGS[command] ?? 0);
  if ((flags & ~valid) !== 0) return refuse(request, terms, NBD_ERROR.EINVAL, "a flag that it does not know");
  switch (command) {
    case READ:
      if (length > MAX_PAYLOAD) return tooLong(request, terms);
      if ((flags & DF) !== 0) {
        if (!terms.structured) return refuse(request, terms, NBD_ERROR.EINVAL, "DF without structured replies");
        if (length > PIECE) return tooLong(request, terms);
      }
      break;
    case WRITE:
      if (terms.readOnly) return readOnly(request, terms);
      if (length > MAX_PAYLOAD) return refuse(request, terms, NBD_ERROR.EINVAL, `more than ${MAX_PAYLOAD} bytes`);
      if (offset + length > terms.length) return outside(request, terms, NBD_ERROR.ENOSPC);
      return undefined;
    case FLUSH:
      if (offset === 0 && length === 0) return undefined;
      return refuse(request, terms, NBD_ERROR.EINVAL, "a flush is of everything");
    case TRIM:
      if (terms.readOnly) return readOnly(request, terms);
      break;
    case WRITE_ZEROES:
      if (terms.readOnly) return readOnly(request, terms);
      if (offset + length > terms.length) return outside(request, terms, NBD_ERROR.ENOSPC);
      return undefined;
    case CACHE:
      if (!terms.caches) return refuse(request, terms, NBD_ERROR.EINVAL, "the export has no cache");
      break;
    case BLOCK_STATUS:
      if (!terms.hasContexts) return refuse(request, terms, NBD_ERROR.EINVAL, "no metadata context was negotiated");
      if (length === 0) return refuse(request, terms, NBD_ERROR.EINVAL, "there is no status of nothing");
      break;
    default:
      return refuse(request, terms, NBD_ERROR.EINVAL, "a command that it does not know");
  }
  if (offset + length > terms.length) return outside(request, terms, NBD_ERROR.EINVAL);
  return undefined;
}

/** For messages: "READ of 4096 bytes at 0". */
export function nameOf({ command, offset, length }: Pick<RequestHeader, "command" | "offset" | "length">): string {
  return `${COMMAND_NAMES[command] ?? `command ${command}`} of ${length} bytes at ${offset}`;
}

function refuse(request: RequestHeader, terms: Terms, value: number, why: string): Refusal {
  return { value, message: `${nameOf(request)} of export '${terms.exportName}' is refused: ${why}` };
}

function readOnly(request: RequestHeader, terms: Terms): Refusal {
  return refuse(request, terms, NBD_ERROR.EPERM, "it is read-only");
}

function outside(request: RequestHeader, terms: Terms, value: number): Refusal {
  return refuse(request, terms, value, `it has ${terms.length} bytes`);
}

/** Only a client with structured replies can be told that a shorter one would do. */
function tooLong(request: RequestHeader, terms: Terms): Refusal {
  const most = (request.flags & DF) !== 0 ? PIECE : MAX_PAYLOAD;
  const value = terms.structured ? NBD_ERROR.EOVERFLOW : NBD_ERROR.EINVAL;
  return refuse(request, terms, value, `more than ${most} bytes in one reply`);
}
