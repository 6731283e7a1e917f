/**
 * Disks for a store that was begun anew: the images of the image directory, which are called as their disks were.
 *
 * Only what can lie over a source is taken, qcow2 and QED, and only when no other image there lies over it: a backing file must not
 * be written, and a raw file may be one without anybody saying so. What was remembered beside the image is gone (policy, speed, history), and
 * so is that the daemon made the file: an adopted one is never deleted. No stream is started that nobody asked for.
 */
import { randomUUID } from "node:crypto";
import { readdir, realpath } from "node:fs/promises";
import { extname, join } from "node:path";
import { diskName } from "../api/index.ts";
import { DEFAULT_POLICY } from "../engine/index.ts";
import { wrapSystemError } from "../errors/index.ts";
import type { FormatName } from "../formats/index.ts";
import type { DiskRecord, Store } from "../jobs/index.ts";
import { backingOf } from "./image-backing.ts";

const FORMATS: Readonly<Record<string, FormatName>> = { ".qcow2": "qcow2", ".qed": "qed" };

export interface ImagePlaces {
  readonly imageDirectory: string;
  readonly socketDirectory: string;
}

/** An image that may be a disk. */
interface Found {
  readonly name: string;
  readonly path: string;
  readonly format: FormatName;
  /** Absolute path or URI of what it lies over. */
  readonly over: string | undefined;
}

/**
 * Puts a record into an empty store for each image that was a disk.
 *
 * @returns what was done, as sentences
 */
export async function adoptImages(store: Store, { imageDirectory, socketDirectory }: ImagePlaces): Promise<string[]> {
  const notes: string[] = [];
  const found: Found[] = [];
  for (const path of await filesIn(imageDirectory)) {
    const extension = extname(path);
    const format = FORMATS[extension];
    const name = path.slice(path.lastIndexOf("/") + 1, -extension.length);
    if (format === undefined || !diskName.safeParse(name).success) {
      notes.push(`'${path}' was left alone: it is not called as an image of the daemon is`);
      continue;
    }
    try {
      found.push({ name, path, format, over: await backingOf(path, format) });
    } catch (error) {
      notes.push(`'${path}' was left alone: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const below = new Set(found.map(({ over }) => over));
  const taken = new Set<string>();
  for (const { name, path, format } of found) {
    if (below.has(path)) notes.push(`'${path}' was left alone: it is the backing file of another image`);
    else if (taken.has(name)) notes.push(`'${path}' was left alone: there is another image of that name`);
    else {
      taken.add(name);
      await store.putDisk(recordOf(name, path, format, socketDirectory));
      notes.push(`'${path}' was adopted as the disk '${name}'`);
    }
  }
  return notes;
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    const home = await realpath(directory);
    const entries = await readdir(home, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => join(home, entry.name))
      .sort();
  } catch (error) {
    throw wrapSystemError(error, directory, "read the directory");
  }
}

function recordOf(name: string, image: string, format: FormatName, sockets: string): DiskRecord {
  return {
    id: `${name}@${randomUUID().slice(0, 8)}`,
    name,
    state: "ready",
    settings: { image, format, readOnly: false, copyOnRead: true, onSourceError: DEFAULT_POLICY },
    address: { kind: "unix", path: join(sockets, `${name}.sock`) },
    ownsFile: false,
    createdAt: Date.now(),
  };
}
