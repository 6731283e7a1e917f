import { dirname, resolve } from "node:path";
import type { BackingReference } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import { parseReference, shownReference } from "../sources/index.ts";

/**
 * What a backing reference means: a URI, or an absolute path, relative to the directory of the image that it stands in.
 *
 * @param image path or URI of that image, as it was named
 * @throws {StreamdiskError} `unsupported` for a scheme that is not read here and for a path relative to a URI,
 *   `invalid-argument` for a URI that is none, `invalid-image` for what cannot be a path
 */
export function resolveReference(reference: string, image: string): string {
  try {
    const below = parseReference(reference);
    if (below.kind !== "file") return below.uri;
    if (below.path !== "" && !below.path.includes("\0")) return resolvePath(below.path, image);
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    const message = `'${shownReference(image)}' has a backing file that is not opened: ${error.message}`;
    throw new StreamdiskError(
      error.code,
      message,
      { node: shownReference(image), uri: shownReference(reference) },
      error,
    );
  }
  const message = `'${image}' names a backing file that cannot be one: ${JSON.stringify(reference)}`;
  throw new StreamdiskError("invalid-image", message, { node: image });
}

function resolvePath(path: string, image: string): string {
  const above = parseReference(image);
  if (above.kind === "file") return resolve(dirname(above.path), path);
  if (path.startsWith("/")) return path;
  throw new StreamdiskError(
    "unsupported",
    `'${path}' is relative, and a server's exports and objects lie in no directory`,
  );
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
  const message = `'${shownReference(image)}' says that its backing file '${shownReference(reference)}' is of the format '${format}', which is not read here`;
  throw new StreamdiskError("unsupported", message, { node: image });
}
