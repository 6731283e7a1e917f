/** The options that a client sends while it negotiates, and the replies to them, as bytes. */
import { OPTION_HEADER_BYTES, OPTION_MAGIC_HIGH, OPTION_MAGIC_LOW } from "../protocol.ts";
import { plainText } from "./server-error.ts";

/** An option with its data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array()): Buffer {
  const bytes = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
  bytes.writeUInt32BE(OPTION_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(OPTION_MAGIC_LOW, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, OPTION_HEADER_BYTES);
  return bytes;
}

/** Data of INFO and GO. */
export function encodeInfoRequest(exportName: string, requests: readonly number[]): Buffer {
  const counted = Buffer.alloc(2 + 2 * requests.length);
  counted.writeUInt16BE(requests.length, 0);
  for (const [index, request] of requests.entries()) counted.writeUInt16BE(request, 2 + 2 * index);
  return Buffer.concat([lengthAndText(exportName), counted]);
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function encodeContextQuery(exportName: string, queries: readonly string[]): Buffer {
  return Buffer.concat([lengthAndText(exportName), uint32(queries.length), ...queries.map(lengthAndText)]);
}

function lengthAndText(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

/** An entry of a server's list. */
export interface NbdListEntry {
  readonly name: string;
  /** Meant for people; empty when the server has none. */
  readonly description: string;
}

/** @returns undefined for what is malformed */
export function decodeListEntry(payload: Buffer): NbdListEntry | undefined {
  if (payload.length < 4) return undefined;
  const length = payload.readUInt32BE(0);
  if (length > payload.length - 4) return undefined;
  return { name: payload.toString("utf8", 4, 4 + length), description: plainText(payload.subarray(4 + length)) };
}

/** @returns undefined for what is malformed */
export function decodeContext(payload: Buffer): { readonly id: number; readonly name: string } | undefined {
  if (payload.length <= 4) return undefined;
  return { id: payload.readUInt32BE(0), name: payload.toString("utf8", 4) };
}
