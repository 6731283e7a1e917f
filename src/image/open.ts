import type { BlockNode } from "../block/index.ts";
import { type Chain, openChain } from "../chain/index.ts";
import { ExtentCache } from "../filters/index.ts";
import { FileNode, type SourceNode } from "../sources/index.ts";
import type { ImageOptions } from "./options.ts";

/** An opened image: `node` reads and writes, `layers` are the files below it. */
export type Image = Chain;

export interface OpenImageOptions extends ImageOptions {
  /** @default false */
  readonly readOnly?: boolean;
}

/**
 * Opens an image and its chain, locked: for writing against everybody, read-only against writers.
 *
 * @example
 * await using image = await openImage("vm1.qcow2");
 * await image.node.write(0, new Uint8Array(512));
 * await image.node.flush();
 * @throws {StreamdiskError} `not-found`, `permission`, `in-use`, `invalid-image`, `unsupported`; `refused` for a backing
 *   file that is not allowed
 */
export async function openImage(path: string, options: OpenImageOptions = {}): Promise<Image> {
  const { format, readOnly, allowBacking, sourceOptions } = options;
  return openChain({ file: path, format, readOnly }, { allowBacking, sourceOptions, wrapSource: remembered });
}

/** To ask a file again what it holds costs nothing; a server, a round trip each time. */
function remembered(source: SourceNode): BlockNode {
  return source instanceof FileNode ? source : new ExtentCache(source);
}

/**
 * Opens an image for the time of `work`, or uses one that is open. An error of `work` counts for more than one of the close
 * after it.
 */
export async function withImage<T>(
  image: string | Image,
  options: OpenImageOptions,
  work: (image: Image) => Promise<T>,
): Promise<T> {
  if (typeof image !== "string") return work(image);
  const opened = await openImage(image, options);
  return finallyClose(opened, () => work(opened));
}

/** Closes whatever happens; an error of `work` counts for more than one of the close. */
export async function finallyClose<T>(node: { close(): Promise<void> }, work: () => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await work();
  } catch (error) {
    await node.close().catch(() => {});
    throw error;
  }
  await node.close();
  return result;
}
