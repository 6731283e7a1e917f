import { dirname, resolve } from "node:path";
import type { BackingReference } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import { referencePath } from "../sources/index.ts";

/**
 * The absolute path that a backing reference means: relative to the directory of the image that it stands in.
 *
 * @param image path of that image, as it was named
 * @throws {StreamdiskError} `unsupported` for what is not a path, `invalid-image` for what cannot be one
 */
export function referencedPath(reference: string, image: string): string {
  try {
    const path = referencePath(reference);
    if (path !== "" && !path.includes("\0")) return resolve(dirname(image), path);
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    const message = `'${image}' has a backing file that is not opened: ${error.message}`;
    throw new StreamdiskError(error.code, message, { node: image, uri: reference }, error);
  }
  const message = `'${image}' names a backing file that cannot be one: ${JSON.stringify(reference)}`;
  throw new StreamdiskError("invalid-image", message, { node: image });
}

/**
 * The format that an image says its backing file has; undefined when it does not say.
 *
 * @throws {StreamdiskError} `unsupported` for one that is not read here
 */
export function referencedFormat({ reference, format }: BackingReference, image: string): FormatName | undefined {
  if (format === undefined) return undefined;
  const known = FORMAT_NAMES.find((name) => name === format);
  if (known !== undefined) return known;
  const message = `'${image}' says that its backing file '${reference}' is of the format '${format}', which is not read here`;
  throw new StreamdiskError("unsupported", message, { node: image });
}
