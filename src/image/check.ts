import { openChain } from "../chain/index.ts";
import type { CheckOptions, CheckResult, FormatName } from "../formats/index.ts";
import type { SourceOptions } from "../sources/index.ts";

export interface CheckImageOptions extends CheckOptions {
  readonly format?: FormatName;
  readonly sourceOptions?: SourceOptions;
}

/** What `qemu-img check --output=json` says, by its names. */
export interface ImageCheck extends CheckResult {
  readonly filename: string;
  readonly format: FormatName;
}

/**
 * Compares the metadata of an image with what it refers to. The backing file is not opened. Without `repair` nothing is
 * written, and a dirty image is not repaired either.
 *
 * @throws {StreamdiskError} `unsupported` for raw, which has nothing to check
 */
export async function checkImage(path: string, options: CheckImageOptions = {}): Promise<ImageCheck> {
  const { format, sourceOptions, ...checking } = options;
  const readOnly = checking.repair === undefined;
  await using image = await openChain({ file: path, format, readOnly }, { sourceOptions, forCheck: true });
  return { filename: path, format: image.node.format, ...(await image.node.check(checking)) };
}
