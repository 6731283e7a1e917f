import type { Extent } from "./extent.ts";
import type { BlockNode } from "./node.ts";

/** Walks the extents of one layer over a range, in order, however many calls that takes. */
export async function* layerExtents(
  node: BlockNode,
  offset = 0,
  length = node.length - offset,
): AsyncGenerator<Extent, void, undefined> {
  const end = offset + length;
  let position = offset;
  while (position < end) {
    for (const extent of await node.extents(position, end - position)) {
      yield extent;
      position = extent.offset + extent.length;
    }
  }
}

/**
 * Walks what a reader of `node` sees, down the chain: each extent is `data` or `zero` with the depth of the layer that
 * answers, or `missing` where `stopBefore` or a layer under it would have to answer (never without it, except at the
 * bottom of the chain, where nothing is allocated at all; such extents read as zeroes and have the depth of the bottom).
 *
 * A range past the end of a shorter layer reads as zeroes, and it is the layer above it, the last that could have held the
 * bytes, that answers.
 */
export async function* chainExtents(
  node: BlockNode,
  offset = 0,
  length = node.length - offset,
  stopBefore?: BlockNode,
): AsyncGenerator<Extent, void, undefined> {
  for await (const extent of layerExtents(node, offset, length)) {
    const below = node.backing;
    if (extent.kind !== "missing" || below === undefined || below === stopBefore) {
      yield extent;
      continue;
    }
    const end = extent.offset + extent.length;
    const inside = Math.min(end, Math.max(below.length, extent.offset));
    if (inside > extent.offset) {
      for await (const deeper of chainExtents(below, extent.offset, inside - extent.offset, stopBefore)) {
        yield { ...deeper, depth: deeper.depth + 1 };
      }
    }
    if (end > inside) yield { offset: inside, length: end - inside, kind: "zero", depth: 0 };
  }
}
