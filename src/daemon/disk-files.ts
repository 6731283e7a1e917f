/** The files of disks: whether they are there, and what is left of them. */
import { lstat, open, rm } from "node:fs/promises";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import type { DiskSettings } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";

export function nothingThere({ image }: DiskSettings): StreamdiskError {
  return new StreamdiskError("not-found", `'${shownReference(image)}' is not there: it cannot be adopted`, {
    node: image,
  });
}

export function somethingThere({ image }: DiskSettings): StreamdiskError {
  const message = `'${image}' is there already: adopt it, or choose another place (image)`;
  return new StreamdiskError("exists", message, { node: image });
}

export async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw wrapSystemError(error, path, "look at");
  }
}

/** One that a daemon left behind that was killed. */
export async function removeSocket(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there?.isSocket()) await rm(path, { force: true });
}

export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path);
  await directory.sync();
}
