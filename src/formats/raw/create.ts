import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type CreatedFormat, CreationOptions, creationSize } from "../create-options.ts";
import type { CreateFormatOptions } from "../format.ts";

/**
 * Makes a raw image, all hole, in an empty file, durably. On what has a fixed size (a device) nothing is written: it keeps its
 * content and its size, which must suffice.
 *
 * Options: `preallocation=off`, which is what there is.
 *
 * @throws {StreamdiskError} `invalid-argument` for a backing file, which raw cannot have, and for options or sizes that cannot
 * be; `exists` for a file that is not empty; `no-space` for a device that is too small
 */
export async function createRaw(file: BlockNode, options: CreateFormatOptions): Promise<CreatedFormat> {
  const node = file.name;
  if (options.backing !== undefined) {
    const { reference } = options.backing;
    throw new StreamdiskError(
      "invalid-argument",
      `'${node}' cannot have the backing file '${reference}': raw images have none; use qcow2 or qed`,
      { node },
    );
  }
  new CreationOptions("raw", options.options, ["preallocation"]).word("preallocation", ["off"]);
  const size = creationSize(options.size, node);
  if (!file.grows) {
    if (size <= file.length) return { size: file.length, backing: undefined, warnings: [] };
    throw new StreamdiskError("no-space", `'${node}' has ${file.length} bytes, too few for an image of ${size}`, {
      node,
    });
  }
  if (file.length !== 0) {
    throw new StreamdiskError("exists", `'${node}' is not empty: it has ${file.length} bytes`, { node });
  }
  await file.resize(size);
  await file.flush();
  return { size, backing: undefined, warnings: [] };
}
