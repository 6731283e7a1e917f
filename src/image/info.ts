import { dirname, isAbsolute, join } from "node:path";
import { type BlockNode, isOverlay, layerExtents } from "../block/index.ts";
import { type Chain, openChain } from "../chain/index.ts";
import type { FormatDetails, FormatName } from "../formats/index.ts";
import { overlayTarget, takeTally } from "../stream/index.ts";
import type { ImageOptions } from "./options.ts";

/** What `qemu-img info --output=json` says, by its names, and what is local. Sizes are bytes. */
export interface ImageInfo extends FormatDetails {
  readonly filename: string;
  readonly format: FormatName;
  readonly "virtual-size": number;
  /** What the file takes of its file system; absent for an image that is no file here. */
  readonly "actual-size"?: number;
  /** As it stands in the image. */
  readonly "backing-filename"?: string;
  /** As seen from where the image was named. */
  readonly "full-backing-filename"?: string;
  readonly "backing-filename-format"?: string;
  /** Data in this image itself. */
  readonly "local-bytes": number;
  /** Known to read as zeroes, here or from below. */
  readonly "zero-bytes": number;
  /** What a stream would have to fetch. Absent when not all of the chain below can be read; `warnings` says why. */
  readonly "missing-bytes"?: number;
  /** Among them, that somebody writes the image at the time and the figures may be stale. */
  readonly warnings: readonly string[];
}

/** Describes an image. Takes no lock: it works on an image in use, and on one whose backing file is gone. */
export async function imageInfo(path: string, options: ImageOptions = {}): Promise<ImageInfo> {
  await using chain = await openToLook(path, options);
  return await describe(chain, 0, path);
}

/** Describes an image and every image below it that can be opened, from the top to the bottom. */
export async function imageChainInfo(path: string, options: ImageOptions = {}): Promise<ImageInfo[]> {
  await using chain = await openToLook(path, options);
  const infos: ImageInfo[] = [];
  for (const index of chain.layers.keys()) {
    infos.push(await describe(chain, index, infos.at(-1)?.["full-backing-filename"] ?? path));
  }
  return infos;
}

function openToLook(path: string, { format, allowBacking, sourceOptions }: ImageOptions): Promise<Chain> {
  const looking = { lock: false, partial: true };
  return openChain({ file: path, format, readOnly: true }, { allowBacking, sourceOptions, ...looking });
}

/** @param filename what the layer is called, seen from where the top was named */
async function describe(chain: Chain, index: number, filename: string): Promise<ImageInfo> {
  const { node, file } = chain.layers[index]!;
  const reference = isOverlay(node) ? node.backingReference : undefined;
  return {
    filename,
    format: node.format,
    "virtual-size": node.length,
    ...(file !== undefined && { "actual-size": await file.allocatedBytes() }),
    ...node.describe(),
    ...(reference !== undefined && {
      "backing-filename": reference.reference,
      "full-backing-filename": combine(filename, reference.reference),
      ...(reference.format !== undefined && { "backing-filename-format": reference.format }),
    }),
    ...(await countBytes(node, chain.whole)),
    // They are about the chain, and are said once.
    warnings: index === 0 ? chain.warnings : [],
  };
}

async function countBytes(
  node: BlockNode,
  whole: boolean,
): Promise<Pick<ImageInfo, "local-bytes" | "zero-bytes" | "missing-bytes">> {
  if (whole && isOverlay(node)) {
    const { local, zero, missing } = await takeTally(overlayTarget(node));
    return { "local-bytes": local, "zero-bytes": zero, "missing-bytes": missing };
  }
  const bytes = { data: 0, zero: 0, missing: 0 };
  for await (const { kind, length } of layerExtents(node)) bytes[kind] += length;
  return { "local-bytes": bytes.data, "zero-bytes": bytes.zero, ...(whole && { "missing-bytes": bytes.missing }) };
}

/** A reference seen from where the image that it stands in was named, in qemu-img's way. */
function combine(filename: string, reference: string): string {
  if (isAbsolute(reference) || /^[^:/]*:/.test(reference) || !filename.includes("/")) return reference;
  return join(dirname(filename), reference);
}
