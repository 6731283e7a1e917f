/** A QED header in its file: read with its backing reference, and changed in the order that keeps it valid. */
import type { BackingReference, BlockNode } from "../../block/index.ts";
import { writeDurably } from "../mapped/durable-writes.ts";
import { decodeBackingName, parseQedHeader, QED_HEADER_BYTES, type QedHeader } from "./header.ts";
import type { QedHeaderUpdate } from "./header-update.ts";

/**
 * Reads and validates the header of an image.
 *
 * @throws {StreamdiskError} as {@link parseQedHeader} and {@link decodeBackingName}
 */
export async function readQedHeader(
  file: BlockNode,
): Promise<{ header: QedHeader; backing: BackingReference | undefined }> {
  const bytes = new Uint8Array(Math.min(file.length, QED_HEADER_BYTES));
  await file.read(0, bytes);
  const header = parseQedHeader(bytes, file.length, file.name);
  if (header.backingName === undefined) return { header, backing: undefined };
  const name = new Uint8Array(header.backingName.size);
  await file.read(header.backingName.offset, name);
  return { header, backing: decodeBackingName(name, header, file.name) };
}

/** Makes an update, durably. What was written before is durable when this begins to change anything. */
export async function writeQedHeader(file: BlockNode, update: QedHeaderUpdate): Promise<QedHeader> {
  await writeDurably(file, update.writes);
  return update.header;
}
