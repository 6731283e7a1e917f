/**
 * From what a user or an image names to a node. A path and a `file:` URI are a file; every other scheme is refused by name
 * until there is something to open it with.
 */
import { fileURLToPath } from "node:url";
import { StreamdiskError } from "../errors/index.ts";
import { type FileNode, type OpenFileOptions, openFile } from "./file.ts";

/** RFC 3986, section 3.1; as in QEMU a path may not look like one. */
const SCHEME = /^([A-Za-z][A-Za-z0-9+.-]*):/;

/**
 * The path that a reference names.
 *
 * @throws {StreamdiskError} `unsupported` for a scheme other than `file:`, `invalid-argument` for a `file:` URI with a host
 */
export function referencePath(reference: string): string {
  const scheme = SCHEME.exec(reference)?.[1]?.toLowerCase();
  if (scheme === undefined) return reference;
  if (scheme !== "file") {
    const hint = `write './${reference}' if it is a file of that name`;
    throw new StreamdiskError("unsupported", `${scheme}: sources are not supported yet ('${reference}'); ${hint}`, {
      uri: reference,
    });
  }
  // QEMU writes file:PATH, everybody else file:///PATH.
  if (!reference.slice("file:".length).startsWith("//")) return reference.slice("file:".length);
  try {
    return fileURLToPath(reference);
  } catch (error) {
    const message = `'${reference}' names no file of this machine: write file:///PATH or just the path`;
    throw new StreamdiskError("invalid-argument", message, { uri: reference }, error);
  }
}

/**
 * Opens what a reference names.
 *
 * @throws {StreamdiskError} as {@link referencePath} and {@link openFile} say
 */
export async function openSource(reference: string, options: OpenFileOptions): Promise<FileNode> {
  return openFile(referencePath(reference), options);
}
