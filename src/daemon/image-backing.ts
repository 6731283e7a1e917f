import { realpath } from "node:fs/promises";
import { isOverlay } from "../block/index.ts";
import { openChain, resolveReference } from "../chain/index.ts";
import type { FormatName } from "../formats/index.ts";
import type { HeldDisk } from "./disks.ts";
import type { HeldExport } from "./exports.ts";
import { below } from "./views.ts";

/** What an image that nobody has open says that it lies over: absolute path with symbolic links resolved, or URI. */
export async function backingOf(path: string, format: FormatName | undefined): Promise<string | undefined> {
  const spec = { file: path, readOnly: true, backing: null, ...(format !== undefined && { format }) };
  await using chain = await openChain(spec, { lock: false });
  const reference = isOverlay(chain.node) ? chain.node.backingReference?.reference : undefined;
  if (reference === undefined) return undefined;
  const resolved = resolveReference(reference, path);
  return await realpath(resolved).catch(() => resolved);
}

/** The first that lies over an image, at whatever depth: by the chain that it has open, or what is remembered of it while it has none. */
export async function findAbove<T extends HeldDisk | HeldExport>(
  image: string,
  all: readonly T[],
): Promise<T | undefined> {
  for (const held of all) {
    const { settings, needs = [] } = held.record;
    const info = await held.host.served?.info().catch(() => undefined);
    const remembered = info === undefined ? needs : [];
    if ([...below(settings, info), ...remembered].includes(image)) return held;
  }
  return undefined;
}
