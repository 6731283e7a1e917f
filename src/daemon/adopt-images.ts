/**
 * Disks for a store that has lost records of disks: the images of the image directory, which are called as their disks were.
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
  /** Says why it becomes none. */
  readonly leave: (why: string) => void;
}

export interface AdoptOptions extends ImagePlaces {
  /** Only disks of these names, with the ids that they had where these are known. @default all */
  readonly lost?: ReadonlyMap<string, string | undefined>;
}

/**
 * Puts a record into the store for each image that was a disk, and is none now.
 *
 * @returns what was done, as sentences
 */
export async function adoptImages(store: Store, options: AdoptOptions): Promise<string[]> {
  const { imageDirectory, socketDirectory, lost } = options;
  const disks = await store.disks();
  const images = new Set(disks.map(({ settings }) => settings.image));
  const notes: string[] = [];
  const found: Found[] = [];
  for (const path of await filesIn(imageDirectory)) {
    const extension = extname(path);
    const format = FORMATS[extension];
    const name = path.slice(path.lastIndexOf("/") + 1, -extension.length);
    const leave = (why: string): void => {
      const isLookedFor = lost === undefined ? !images.has(path) : lost.has(name);
      if (isLookedFor) notes.push(`'${path}' was left alone: ${why}`);
    };
    if (format === undefined || !diskName.safeParse(name).success) {
      leave("it is not called as an image of the daemon is");
      continue;
    }
    try {
      found.push({ name, path, format, over: await backingOf(path, format), leave });
    } catch (error) {
      leave(error instanceof Error ? error.message : String(error));
    }
  }
  const below = new Set([...found.map(({ over }) => over), ...disks.map(({ settings }) => settings.backing)]);
  const taken = new Set(disks.map(({ name }) => name));
  for (const { name, path, format, leave } of found) {
    if (images.has(path) || lost?.has(name) === false) continue;
    if (below.has(path)) leave("it is the backing file of another image");
    else if (taken.has(name)) leave("there is another disk of that name");
    else {
      taken.add(name);
      const id = lost?.get(name) ?? `${name}@${randomUUID().slice(0, 8)}`;
      await store.putDisk({ ...recordOf(name, path, format, socketDirectory), id });
      notes.push(`'${path}' was adopted as the disk '${name}', with the settings of a new disk`);
    }
  }
  for (const name of lost?.keys() ?? []) {
    if (!taken.has(name))
      notes.push(`No image of the lost disk '${name}' was taken: 'disk create ${name} --adopt FILE' takes one`);
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

function recordOf(name: string, image: string, format: FormatName, sockets: string): Omit<DiskRecord, "id"> {
  return {
    name,
    state: "ready",
    settings: { image, format, readOnly: false, copyOnRead: true, onSourceError: DEFAULT_POLICY },
    address: { kind: "unix", path: join(sockets, `${name}.sock`) },
    ownsFile: false,
    createdAt: Date.now(),
  };
}
