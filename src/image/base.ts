import { basename, dirname, resolve } from "node:path";
import { type BackingReference, isOverlay } from "../block/index.ts";
import { resolveReference } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { sourceIdentity } from "../sources/index.ts";
import type { StreamBase } from "../stream/index.ts";
import type { Image } from "./open.ts";

/**
 * Finds the layer that is to stay below an image, by which file it is.
 *
 * @param base a path or URI, whatever the chain calls it
 * @throws {StreamdiskError} `not-found` for a file that is not there, `invalid-argument` for one that does not lie below the image
 */
export async function findBase(image: Image, base: string): Promise<StreamBase> {
  const { layers } = image;
  const identity = await sourceIdentity(base);
  const index = layers.findIndex((layer) => layer.identity === identity);
  if (index < 1) {
    const chain = layers.map(({ path }) => `'${path}'`).join(" over ");
    const what =
      index === 0 ? "is the image itself, not below it" : `is not in the backing chain of '${image.node.name}'`;
    throw new StreamdiskError("invalid-argument", `The base '${base}' ${what}: that is ${chain}`, { node: base });
  }
  const { node, format } = layers[index]!;
  return { node, reference: { reference: referenceTo(image, index), format } };
}

/**
 * How the top of a chain is to refer to a layer further down: as the image above that layer does, if that means the
 * same there; otherwise by its name in the same directory, or by its absolute path.
 */
function referenceTo({ layers }: Image, index: number): string {
  const above = layers[index - 1]!;
  const { reference } = written(above.node);
  if (index === 1) return reference;
  const path = resolveReference(reference, above.path);
  const home = dirname(resolve(layers[0]!.path));
  return dirname(path) === home ? basename(path) : path;
}

function written(node: Image["node"]): BackingReference {
  if (isOverlay(node) && node.backingReference !== undefined) return node.backingReference;
  throw new StreamdiskError("invalid-image", `'${node.name}' has no backing file`, { node: node.name });
}
