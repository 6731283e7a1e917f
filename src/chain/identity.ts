import { stat } from "node:fs/promises";
import { wrapSystemError } from "../errors/index.ts";
import type { FileNode } from "../sources/index.ts";

/** Which file it is, whatever it is called: the same for two names of one file. */
export function identityOf(file: FileNode): string {
  return `${file.identity.dev}:${file.identity.ino}`;
}

/**
 * The same of a path.
 *
 * @throws {StreamdiskError} `not-found`, `permission`
 */
export async function identityOfPath(path: string): Promise<string> {
  try {
    const facts = await stat(path, { bigint: true });
    return facts.isBlockDevice() ? `${facts.rdev}:0` : `${facts.dev}:${facts.ino}`;
  } catch (error) {
    throw wrapSystemError(error, path, "find", { operation: "open" });
  }
}
