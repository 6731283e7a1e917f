import { basename, dirname, resolve } from "node:path";
import { isOverlay } from "../block/index.ts";
import { resolveReference } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { shownReference, sourceIdentity } from "../sources/index.ts";
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
  const index = await indexOf(layers, base);
  if (index < 1) {
    const chain = layers.map(({ path }) => `'${shownReference(path)}'`).join(" over ");
    const what =
      index === 0 ? "is the image itself, not below it" : `is not in the backing chain of '${image.node.name}'`;
    const shown = shownReference(base);
    throw new StreamdiskError("invalid-argument", `The base '${shown}' ${what}: that is ${chain}`, { node: shown });
  }
  const { node, format } = layers[index]!;
  return { node, reference: { reference: referenceTo(image, index), format } };
}

/** By its name first: a file may have been deleted while it is read. */
async function indexOf(layers: Image["layers"], base: string): Promise<number> {
  const named = layers.findIndex(({ path }) => path === base);
  if (named >= 0) return named;
  const identity = await sourceIdentity(base);
  return layers.findIndex((layer) => layer.identity === identity);
}

/**
 * How the top of a chain is to refer to a layer further down: as the image above that layer does, if that means the
 * same there; otherwise by its name in the same directory, or by its absolute path.
 */
function referenceTo({ layers }: Image, index: number): string {
  const above = layers[index - 1]!;
  const reference = written(above.node);
  if (index === 1 && reference !== undefined) return reference;
  // One that was away when the chain was opened is known by what it is called alone.
  const path = reference === undefined ? layers[index]!.path : resolveReference(reference, above.path);
  const home = dirname(resolve(layers[0]!.path));
  return dirname(path) === home ? basename(path) : path;
}

function written(node: Image["node"]): string | undefined {
  return isOverlay(node) ? node.backingReference?.reference : undefined;
}
