/** The base of a stream, among the layers of a disk that is served. */
import { resolve } from "node:path";
import type { Chain } from "../chain/index.ts";
import { findBase } from "../image/index.ts";
import { parseReference } from "../sources/index.ts";
import type { StreamBase } from "../stream/index.ts";
import type { BaseLayer } from "./disk-spec.ts";

/**
 * @param overridden what lies below the image in place of what that says, if anything
 * @throws {StreamdiskError} as `findBase`, and `source-lost` while it is not known what lies below an image that is away
 */
export async function baseOfStream(chain: Chain, named: string, overridden: string | undefined): Promise<StreamBase> {
  const { layers } = chain;
  // Fails as long as that is away.
  if (!layers.some(({ path }) => path === named)) await layers.at(-1)?.node.read(0, new Uint8Array(1));
  const { node, reference } = await findBase(chain, named);
  if (overridden === undefined || node !== chain.node.backing) return { node, reference };
  return { node, reference: { ...reference, reference: absolute(overridden) } };
}

/** The layer as it may be named from anywhere. */
export function layerOf(chain: Chain, { node }: StreamBase): BaseLayer {
  const { path, format } = chain.layers.find((layer) => layer.node === node)!;
  return { reference: absolute(path), format };
}

function absolute(reference: string): string {
  return parseReference(reference).kind === "file" ? resolve(reference) : reference;
}
