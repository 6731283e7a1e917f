import type { BlockNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { withImage } from "./open.ts";
import type { ImageOptions } from "./options.ts";

export interface ResizeImageOptions extends ImageOptions {
  /** Allows a smaller size, which throws away what lies beyond. @default false */
  readonly shrink?: boolean;
}

export interface ResizeResult {
  readonly from: number;
  readonly to: number;
  /** What its user should know, each a sentence. */
  readonly warnings: readonly string[];
}

/** Disks have whole sectors; QEMU sees no others. */
const SECTOR = 512;

/**
 * Changes the virtual size of an image, in bytes, rounded up to whole sectors of 512. What a larger size adds reads as zeroes, whatever the backing file has there.
 *
 * @throws {StreamdiskError} `refused` for a smaller size without `shrink`, `invalid-argument` for one that cannot be
 */
export async function resizeImage(path: string, size: number, options: ResizeImageOptions = {}): Promise<ResizeResult> {
  refuseNonsense(path, size);
  const { format, allowBacking, sourceOptions } = options;
  return withImage(path, { format, allowBacking, sourceOptions }, async ({ node, warnings }) => {
    const from = node.length;
    await resizeNode(node, size, options);
    return { from, to: node.length, warnings };
  });
}

/** The same for an image that is open. */
export async function resizeNode(
  node: BlockNode,
  size: number,
  { shrink = false }: Pick<ResizeImageOptions, "shrink">,
): Promise<void> {
  refuseNonsense(node.name, size);
  if (size < node.length && !shrink) {
    const message = `'${node.name}' has ${node.length} bytes: ${size} would throw away what lies beyond. Allow it with --shrink (shrink: true)`;
    throw new StreamdiskError("refused", message, { node: node.name });
  }
  await node.resize(Math.ceil(size / SECTOR) * SECTOR);
  await node.flush();
}

function refuseNonsense(name: string, size: number): void {
  if (Number.isSafeInteger(size) && size >= 0) return;
  throw new StreamdiskError("invalid-argument", `'${name}' cannot have ${size} bytes`, { node: name });
}
