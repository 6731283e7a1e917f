/**
 * What a reader of an image sees, in qemu-img's words: each range with the layer that answers and where in its file.
 *
 * qemu-img counts a range past the end of a shorter backing file as the upper layer's, not present; and what no layer has
 * allocated as the bottom's, not present. (With extended L2 it tells a place in the file of some of that too, where nothing
 * is; that is left out.) Neighbours of which all is equal, and whose places in the file touch, are one entry.
 */
import { type BlockNode, layerExtents } from "../block/index.ts";
import { openChain } from "../chain/index.ts";
import type { ImageOptions } from "./options.ts";

/** A run of bytes, by the names of `qemu-img map --output=json`. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** The layer that answers: 0 is the image itself. */
  readonly depth: number;
  /** Whether that layer has it allocated. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** Where the bytes lie in the file of that layer, when they lie there as they are. */
  readonly offset?: number;
  /** Whether the image would have to fetch it from below. */
  readonly missing: boolean;
}

/** Walks what a reader of the image sees. Takes no lock: it works on an image in use. */
export async function* imageMap(path: string, options: ImageOptions = {}): AsyncGenerator<MapEntry, void, undefined> {
  const { format, allowBacking, sourceOptions } = options;
  await using chain = await openChain(
    { file: path, format, readOnly: true },
    { allowBacking, sourceOptions, lock: false },
  );
  yield* joinEntries(nodeMap(chain.node));
}

/** The same of an image that is open, from `offset` on. Neighbours that are alike are not joined. */
export function nodeMap(node: BlockNode, offset = 0): AsyncGenerator<MapEntry, void, undefined> {
  return entriesOf(node, offset, node.length - offset, 0);
}

/** Joins neighbours that are alike. */
export async function* joinEntries(entries: AsyncIterable<MapEntry>): AsyncGenerator<MapEntry, void, undefined> {
  let last: MapEntry | undefined;
  for await (const entry of entries) {
    const joined = last && join(last, entry);
    if (last !== undefined && joined === undefined) yield last;
    last = joined ?? entry;
  }
  if (last !== undefined) yield last;
}

async function* entriesOf(
  node: BlockNode,
  offset: number,
  length: number,
  depth: number,
): AsyncGenerator<MapEntry, void, undefined> {
  const below = node.backing;
  for await (const extent of layerExtents(node, offset, length)) {
    const end = extent.offset + extent.length;
    if (extent.kind !== "missing") {
      const { kind, hostOffset } = extent;
      const place = { start: extent.offset, length: extent.length, depth, present: true };
      const data = kind === "data";
      yield {
        ...place,
        zero: !data,
        data,
        ...(hostOffset !== undefined && { offset: hostOffset }),
        missing: data && depth > 0,
      };
      continue;
    }
    const inside = below === undefined ? extent.offset : Math.min(end, Math.max(below.length, extent.offset));
    if (below !== undefined) yield* entriesOf(below, extent.offset, inside - extent.offset, depth + 1);
    if (end === inside) continue;
    yield { start: inside, length: end - inside, depth, present: false, zero: true, data: false, missing: false };
  }
}

function join(a: MapEntry, b: MapEntry): MapEntry | undefined {
  const same = a.depth === b.depth && a.present === b.present && a.zero === b.zero && a.data === b.data;
  const touching = a.offset === undefined ? b.offset === undefined : a.offset + a.length === b.offset;
  return same && touching ? { ...a, length: a.length + b.length } : undefined;
}
