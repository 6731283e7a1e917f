import { realpath } from "node:fs/promises";
import { isOverlay } from "../block/index.ts";
import { openChain, resolveReference } from "../chain/index.ts";
import type { FormatName } from "../formats/index.ts";

/** What an image that nobody has open says that it lies over: absolute path with symbolic links resolved, or URI. */
export async function backingOf(path: string, format: FormatName | undefined): Promise<string | undefined> {
  const spec = { file: path, readOnly: true, backing: null, ...(format !== undefined && { format }) };
  await using chain = await openChain(spec, { lock: false });
  const reference = isOverlay(chain.node) ? chain.node.backingReference?.reference : undefined;
  if (reference === undefined) return undefined;
  const below = resolveReference(reference, path);
  return await realpath(below).catch(() => below);
}
