/** A qcow2 header in its file: read, and changed in the order that keeps it valid. */
import type { BlockNode } from "../../block/index.ts";
import { writeDurably } from "../mapped/durable-writes.ts";
import { viewOf } from "./big-endian.ts";
import { hasMagic, MAX_CLUSTER_BITS, type Qcow2Header } from "./header.ts";
import { parseHeader } from "./header-parse.ts";
import type { HeaderUpdate } from "./header-update.ts";

/** QEMU's default cluster: most headers need one read. */
const FIRST_READ = 64 * 1024;

/**
 * Reads and validates the header of an image.
 *
 * @throws {StreamdiskError} as {@link parseHeader}
 */
export async function readHeader(file: BlockNode, options: { readonly forCheck?: boolean } = {}): Promise<Qcow2Header> {
  let bytes = new Uint8Array(Math.min(file.length, FIRST_READ));
  await file.read(0, bytes);
  const clusterBits = hasMagic(bytes) && bytes.length >= 24 ? viewOf(bytes).getUint32(20) : 0;
  if (clusterBits <= MAX_CLUSTER_BITS && 2 ** clusterBits > bytes.length) {
    bytes = new Uint8Array(Math.min(file.length, 2 ** clusterBits));
    await file.read(0, bytes);
  }
  return parseHeader(bytes, file.name, file.length, options);
}

/** Makes an update, durably. What was written before is durable when this begins to change anything. */
export async function writeHeader(file: BlockNode, update: HeaderUpdate): Promise<Qcow2Header> {
  await writeDurably(file, update.writes);
  return update.header;
}
