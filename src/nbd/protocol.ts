/**
 * The numbers of the NBD protocol (doc/proto.md of the NBD project), by the names that it gives them, for both ends.
 *
 * All numbers on the wire are big-endian. Those of 64 bits are read and written as two halves: `number` holds every size and
 * offset that can occur, and bigint costs too much on the way of each request. The 64-bit magics and the cookies, which are
 * only compared, are pairs of halves.
 */

/** Port assigned by IANA (doc/uri.md, "NBD URI authority"). */
export const NBD_PORT = 10809;

/** Longest string of the protocol in bytes: names, descriptions, error messages ("Conventions"). */
export const MAX_STRING = 4096;
/** What every server takes as payload of one request when it says nothing else, and the most that we move in one. */
export const MAX_PAYLOAD = 32 * 1024 * 1024;
/** Most extents of one block status chunk. */
export const MAX_EXTENTS = 2 ** 20;
/** A server may not ask for larger minimum blocks. */
export const LARGEST_MINIMUM_BLOCK = 65536;

/** "NBDMAGIC", with which a server opens. */
export const NBD_MAGIC_HIGH = 0x4e42444d;
export const NBD_MAGIC_LOW = 0x41474943;
/** "IHAVEOPT", which follows it in newstyle, and opens each option. */
export const OPTION_MAGIC_HIGH = 0x49484156;
export const OPTION_MAGIC_LOW = 0x454f5054;
/** What follows it in oldstyle. */
export const OLDSTYLE_MAGIC_HIGH = 0x00004202;
export const OLDSTYLE_MAGIC_LOW = 0x81861253;
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Bytes of the fixed parts. */
export const GREETING_BYTES = 18;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
/** The reply to EXPORT_NAME: size and flags, and the padding that NO_ZEROES leaves out. */
export const EXPORT_NAME_REPLY_BYTES = 10;
export const EXPORT_NAME_PADDING = 124;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;

/** Handshake flags, of the server and of the client. */
export const HANDSHAKE = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const;

/** Transmission flags. */
export const FLAG = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

/** Types of option replies. Those of errors have bit 31 set. */
export const REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
} as const;
export const REPLY_ERROR_BIT = 0x80000000;

/** Information types of INFO and GO. */
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;
export type Command = (typeof COMMAND)[keyof typeof COMMAND];

/** How a command is called in messages. */
export const COMMAND_NAMES: Readonly<Record<number, string>> = {
  [COMMAND.READ]: "READ",
  [COMMAND.WRITE]: "WRITE",
  [COMMAND.DISC]: "DISC",
  [COMMAND.FLUSH]: "FLUSH",
  [COMMAND.TRIM]: "TRIM",
  [COMMAND.CACHE]: "CACHE",
  [COMMAND.WRITE_ZEROES]: "WRITE_ZEROES",
  [COMMAND.BLOCK_STATUS]: "BLOCK_STATUS",
};

/** Command flags. */
export const COMMAND_FLAG = { FUA: 1 << 0, NO_HOLE: 1 << 1, DF: 1 << 2, REQ_ONE: 1 << 3, FAST_ZERO: 1 << 4 } as const;

/** Flag of the last chunk of a structured reply. */
export const CHUNK_DONE = 1 << 0;

/** Types of the chunks of a structured reply. Those of errors have bit 15 set. */
export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;
export const CHUNK_ERROR_BIT = 0x8000;

/** Error values of replies ("Error values"). */
export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Metadata contexts that one end or the other of ours knows. */
export const CONTEXT_ALLOCATION = "base:allocation";
/** How many layers down an extent is allocated: 1 in the image itself, 0 nowhere (QEMU, docs/interop/nbd.txt). */
export const CONTEXT_DEPTH = "qemu:allocation-depth";

/** What an overlay has of its own (docs/nbd-server.md): for those who fill it from outside. */
export const CONTEXT_LOCAL = "x-streamdisk:local";

/** Status flags of `base:allocation`. */
export const STATE = { HOLE: 1 << 0, ZERO: 1 << 1 } as const;
/** Status of `x-streamdisk:local`; 0: its data are local. A zero that the source is known to have counts as local. */
export const LOCAL_STATE = { MISSING: 1 << 0, ZERO: 1 << 1 } as const;

/** Reads 64 bits: exactly up to 2^53, and as some larger number beyond. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

/** Writes a whole number below 2^53 in 64 bits. */
export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}
