/**
 * The base of a disk's stream: the layer that its image is linked to in the end. When that has happened, what is remembered as lying
 * below the disk follows the image, which is the truth: at once, and if the daemon died before, when the disk is next opened.
 */
import type { ServedDisk } from "../engine/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DiskRecord, JobRecord } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import { backingOf } from "./image-backing.ts";

type Base = NonNullable<JobRecord["base"]>;

/**
 * The layer of an open disk that is to stay below it.
 *
 * @throws {StreamdiskError} as `ServedDisk.base`, and `refused`
 */
export async function baseLayer(
  { name, ownsFile, settings }: DiskRecord,
  served: ServedDisk,
  named: string,
  allowed: AllowedPaths,
): Promise<Base> {
  if (!ownsFile && settings.backing !== undefined) {
    const message = `'${name}' was adopted with a backing file in place of what its image says, and a base is a link in the image: write that link first ('streamdisk disk rm', 'streamdisk rebase'), and adopt it again`;
    throw new StreamdiskError("refused", message, { node: name });
  }
  const { reference, format } = await served.base(await allowed.source(named));
  return { reference: await allowed.source(reference), format };
}

/** Whether the image of a disk, which nobody has open, is linked to the base already. One that cannot be read now is not. */
export async function isLinkedTo({ reference }: Base, { settings }: DiskRecord): Promise<boolean> {
  return (await backingOf(settings.image, settings.format).catch(() => undefined)) === reference;
}

/** The record of a disk that lies over its base. One of which the image alone says what lies below stays as it is. */
export function overBase(record: DiskRecord, { reference, format }: Base): DiskRecord {
  if (record.settings.backing === undefined) return record;
  return { ...record, settings: { ...record.settings, backing: reference, backingFormat: format } };
}
