/**
 * A new image appears whole or not at all: it is made under a temporary name beside its place, and gets its own when it
 * is complete. So a failure leaves nothing behind, and an image that is to be overwritten is untouched until then.
 *
 * A place that holds something is refused unless the caller forces it; then whoever uses what is there is respected as
 * everywhere (its lock is taken). A block device has no second name: it is written in place.
 */
import { realpath, rename, stat, truncate, unlink } from "node:fs/promises";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { type FileNode, openFile } from "../sources/index.ts";

/**
 * @param fill makes the image in an empty file, durably; it may close the file
 * @throws {StreamdiskError} `exists`, `in-use`, and what `fill` throws
 */
export async function makeFile<T>(path: string, force: boolean, fill: (file: FileNode) => Promise<T>): Promise<T> {
  const there = await whatIsThere(path);
  if (there === "device") return fillDevice(path, force, fill);
  if (there === "something" && !force) {
    throw new StreamdiskError("exists", `'${path}' exists and is not empty: overwrite it with --force (force: true)`, {
      node: path,
    });
  }
  if (there === "nothing") return fillNew(path, path, fill);
  if (there === "empty") return fillEmpty(path, fill);
  // Whoever uses what is there keeps us from replacing it.
  await using _old = await openFile(path, { readOnly: false });
  const place = await realpath(path);
  return await fillNew(`${place}.${Math.random().toString(36).slice(2)}.new`, place, fill);
}

async function whatIsThere(path: string): Promise<"nothing" | "empty" | "something" | "device"> {
  try {
    const facts = await stat(path);
    if (facts.isBlockDevice()) return "device";
    return facts.isFile() && facts.size === 0 ? "empty" : "something";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "nothing";
    throw wrapSystemError(error, path, "create");
  }
}

async function fillNew<T>(path: string, place: string, fill: (file: FileNode) => Promise<T>): Promise<T> {
  const file = await openFile(path, { readOnly: false, create: true });
  try {
    const result = await fill(file);
    await file.close();
    if (path !== place) await rename(path, place);
    return result;
  } catch (error) {
    await file.close().catch(() => {});
    await unlink(path).catch(() => {});
    throw wrapSystemError(error, place, "create");
  }
}

async function fillEmpty<T>(path: string, fill: (file: FileNode) => Promise<T>): Promise<T> {
  await using file = await openFile(path, { readOnly: false });
  try {
    return await fill(file);
  } catch (error) {
    await truncate(path).catch(() => {});
    throw wrapSystemError(error, path, "create");
  }
}

async function fillDevice<T>(path: string, force: boolean, fill: (file: FileNode) => Promise<T>): Promise<T> {
  if (!force) {
    throw new StreamdiskError("exists", `'${path}' is a block device: overwrite it with --force (force: true)`, {
      node: path,
    });
  }
  await using file = await openFile(path, { readOnly: false });
  return await fill(file);
}
