/**
 * A new image appears whole or not at all: it is made under a temporary name beside its place, and gets its own when it
 * is complete. So a failure leaves nothing behind, and an image that is to be overwritten is untouched until then.
 *
 * A place that holds something is refused unless the caller forces it; then whoever uses what is there is respected as
 * everywhere (its lock is taken). A block device has no second name: it is written in place.
 */
import { randomBytes } from "node:crypto";
import { chmod, link, open, readdir, realpath, rename, rm, stat, truncate, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { type FileNode, openFile } from "../sources/index.ts";

const PERMISSIONS = 0o7777;
/** The end of a temporary name, as nobody else gives it. */
const HALF_MADE = /^\.streamdisk-[0-9a-f]{16}\.new$/;

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
  if (there === "nothing") return fillNew(path, undefined, fill);
  if (there === "empty") return fillEmpty(path, fill);
  // Whoever uses what is there keeps us from replacing it.
  await using _old = await openFile(path, { readOnly: false });
  const place = await realpath(path);
  return await fillNew(place, (await stat(place)).mode, fill);
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

/** @param replacedMode permissions of what it replaces, which it gets too; undefined where nothing may be replaced */
async function fillNew<T>(
  place: string,
  replacedMode: number | undefined,
  fill: (file: FileNode) => Promise<T>,
): Promise<T> {
  const path = `${place}.streamdisk-${randomBytes(8).toString("hex")}.new`;
  let file: FileNode | undefined;
  try {
    file = await openFile(path, { readOnly: false, create: true });
    if (replacedMode !== undefined) await chmod(path, replacedMode & PERMISSIONS);
    const result = await fill(file);
    await file.close();
    await settle(path, place, replacedMode !== undefined);
    return result;
  } catch (error) {
    await file?.close().catch(() => {});
    await unlink(path).catch(() => {});
    throw wrapSystemError(inItsName(error, path, place), place, "create");
  }
}

/** Takes away what a process that died has left of an image that it was making; one that another process is making is locked, and stays. */
export async function removeHalfMade(place: string): Promise<void> {
  const [directory, name] = [dirname(place), basename(place)];
  for (const other of await readdir(directory).catch(() => [])) {
    if (other.startsWith(name) && HALF_MADE.test(other.slice(name.length))) await removeUnused(join(directory, other));
  }
}

async function removeUnused(path: string): Promise<void> {
  try {
    await using _unused = await openFile(path, { readOnly: false });
    await rm(path, { force: true });
  } catch (error) {
    if (!(error instanceof StreamdiskError) || !["in-use", "not-found"].includes(error.code)) throw error;
  }
}

/** The user knows nothing of the temporary name. */
function inItsName(error: unknown, path: string, place: string): unknown {
  if (!(error instanceof StreamdiskError)) return error;
  const { code, message, context, cause } = error;
  const node = context.node === path ? { ...context, node: place } : context;
  return new StreamdiskError(code, message.replaceAll(path, place), node, cause);
}

/** Gives a complete file its name, durably. */
async function settle(path: string, place: string, replace: boolean): Promise<void> {
  if (replace) await rename(path, place);
  else {
    // Unlike a rename it does not take the place of a file that has come to be there meanwhile.
    await link(path, place);
    await unlink(path);
  }
  await using directory = await open(dirname(place));
  await directory.sync();
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
