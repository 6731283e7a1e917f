/** The options that a client may send, as a server reads them, and the replies to them, as bytes. */
import {
  EXPORT_NAME_PADDING,
  EXPORT_NAME_REPLY_BYTES,
  INFO,
  MAX_STRING,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  setUint64,
} from "../protocol.ts";

export interface OptionHeader {
  readonly option: number;
  /** Bytes of data that follow. */
  readonly length: number;
}

/** @returns undefined when the magic is wrong: nothing that follows can be trusted */
export function decodeOptionHeader(bytes: Buffer): OptionHeader | undefined {
  if (bytes.readUInt32BE(0) !== OPTION_MAGIC_HIGH || bytes.readUInt32BE(4) !== OPTION_MAGIC_LOW) return undefined;
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(OPTION_HEADER_BYTES - 4) };
}

/** Data of INFO and GO. */
export interface InfoRequest {
  readonly exportName: string;
  /** Information types, known or not. */
  readonly requests: readonly number[];
}

/** @returns undefined for what is malformed */
export function decodeInfoRequest(data: Buffer): InfoRequest | undefined {
  const reader = new Reader(data);
  const exportName = reader.text(reader.uint32());
  const requests: number[] = [];
  for (let left = reader.uint16(); left > 0 && !reader.failed; left--) requests.push(reader.uint16());
  return reader.atEnd && exportName !== undefined ? { exportName, requests } : undefined;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface ContextQuery {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/** @returns undefined for what is malformed, a query without a namespace included */
export function decodeContextQuery(data: Buffer): ContextQuery | undefined {
  const reader = new Reader(data);
  const exportName = reader.text(reader.uint32());
  const queries: string[] = [];
  for (let left = reader.uint32(); left > 0 && !reader.failed; left--) {
    const query = reader.text(reader.uint32());
    if (query === undefined || !query.includes(":")) return undefined;
    queries.push(query);
  }
  return reader.atEnd && exportName !== undefined ? { exportName, queries } : undefined;
}

/** A name that is all of an option's data. @returns undefined for one that the protocol rules out */
export function decodeName(data: Buffer): string | undefined {
  const reader = new Reader(data);
  return reader.text(data.length);
}

const strictText = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads fields one after the other. Past the end, or after a text that is none, everything is zero and `failed` says so. */
class Reader {
  failed = false;
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return !this.failed && this.#at === this.#bytes.length;
  }

  uint16(): number {
    const at = this.#take(2);
    return this.failed ? 0 : this.#bytes.readUInt16BE(at);
  }

  uint32(): number {
    const at = this.#take(4);
    return this.failed ? 0 : this.#bytes.readUInt32BE(at);
  }

  text(length: number): string | undefined {
    if (length > MAX_STRING) this.failed = true;
    const at = this.#take(length);
    if (this.failed) return undefined;
    try {
      const text = strictText.decode(this.#bytes.subarray(at, at + length));
      if (!text.includes("\0")) return text;
    } catch {
      // Not UTF-8.
    }
    this.failed = true;
    return undefined;
  }

  #take(length: number): number {
    const at = this.#at;
    this.#at += length;
    if (this.#at > this.#bytes.length) this.failed = true;
    return at;
  }
}

/** A reply to an option. */
export function encodeOptionReply(option: number, type: number, data: Uint8Array = new Uint8Array()): Buffer {
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + data.length);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_LOW, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  bytes.set(data, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** Data of a SERVER reply. */
export function encodeListEntry(name: string, description: string): Buffer {
  const bytes = Buffer.from(name);
  return Buffer.concat([uint32(bytes.length), bytes, Buffer.from(description)]);
}

/** Data of a META_CONTEXT reply. */
export function encodeContext(id: number, name: string): Buffer {
  return Buffer.concat([uint32(id), Buffer.from(name)]);
}

/** Data of an INFO reply that says how large the export is and what it can do. */
export function encodeExportInfo(length: number, flags: number): Buffer {
  return Buffer.concat([uint16(INFO.EXPORT), sizeAndFlags(length, flags)]);
}

/** Data of an INFO reply with a name or a description. */
export function encodeTextInfo(type: typeof INFO.NAME | typeof INFO.DESCRIPTION, text: string): Buffer {
  return Buffer.concat([uint16(type), Buffer.from(text)]);
}

/** Data of an INFO reply about block sizes, in bytes. */
export function encodeBlockSizes(minimum: number, preferred: number, maximum: number): Buffer {
  return Buffer.concat([uint16(INFO.BLOCK_SIZE), uint32(minimum), uint32(preferred), uint32(maximum)]);
}

/** The reply to EXPORT_NAME, which has no header. */
export function encodeExportNameReply(length: number, flags: number, padded: boolean): Buffer {
  return Buffer.concat([sizeAndFlags(length, flags), Buffer.alloc(padded ? EXPORT_NAME_PADDING : 0)]);
}

function sizeAndFlags(length: number, flags: number): Buffer {
  const bytes = Buffer.alloc(EXPORT_NAME_REPLY_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  setUint64(view, 0, length);
  view.setUint16(8, flags);
  return bytes;
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
