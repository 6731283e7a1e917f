/** Small qcow2 files built by hand, for tests of what real programs never write. */
import { setUint64, viewOf } from "../../src/formats/qcow2/big-endian.ts";
import { EXTENSION, encodeExtensions } from "../../src/formats/qcow2/extensions.ts";
import { MemoryNode } from "./memory-node.ts";

export const CLUSTER = 4096;

/** A 32-bit word to be put at a place. */
export type Poke = readonly [at: number, word: number];

/**
 * An image of 16 clusters of 4 KiB, version 3: header, refcount table, refcount block, L1 table (one entry), then what the test puts there.
 * Its refcounts are not filled in.
 *
 * @param bitmaps the data of a bitmaps extension; it is marked consistent then
 */
export function smallQcow2(pokes: readonly Poke[], bitmaps?: Uint8Array): MemoryNode {
  const bytes = new Uint8Array(16 * CLUSTER);
  const view = viewOf(bytes);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, 3);
  view.setUint32(20, 12);
  setUint64(view, 24, 2 ** 20);
  view.setUint32(36, 1);
  setUint64(view, 40, 3 * CLUSTER);
  setUint64(view, 48, CLUSTER);
  view.setUint32(56, 1);
  view.setUint32(92, bitmaps === undefined ? 0 : 1);
  view.setUint32(96, 4);
  view.setUint32(100, 104);
  if (bitmaps !== undefined) bytes.set(encodeExtensions([{ type: EXTENSION.bitmaps, data: bitmaps }]), 104);
  for (const [at, word] of pokes) view.setUint32(at, word);
  return MemoryNode.of(bytes, { name: "disk" });
}
