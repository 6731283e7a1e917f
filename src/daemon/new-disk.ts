import { extname } from "node:path";
import type { NewDisk } from "../api/index.ts";
import { DEFAULT_POLICY } from "../engine/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import type { DiskSettings } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";

/**
 * What is to be remembered of an order for a disk, with everything in it that may be named.
 *
 * @throws {StreamdiskError} `refused` for a place that is not allowed, `invalid-argument` for an order that makes no sense
 */
export async function newDiskSettings(order: NewDisk, allowed: AllowedPaths): Promise<DiskSettings> {
  const { name, adopt, backing, backingFormat, readOnly, copyOnRead } = order;
  refuseNonsense(order);
  const format = order.format ?? (adopt ? undefined : formatOf(order.image));
  const image = await allowed.file(order.image ?? `${name}.${format ?? "qcow2"}`);
  return {
    image,
    readOnly,
    copyOnRead,
    onSourceError: policyOf(order.onSourceError),
    ...(format !== undefined && { format }),
    ...(backing !== undefined && { backing: await allowed.source(backing) }),
    ...(backingFormat !== undefined && { backingFormat }),
  };
}

function refuseNonsense({ name, image, adopt, size, backing, readOnly }: NewDisk): void {
  const say = (message: string): never => {
    throw new StreamdiskError("invalid-argument", message, { node: name });
  };
  if (adopt && image === undefined) say(`To adopt an image as '${name}', name it (image)`);
  if (adopt && size !== undefined) say(`'${name}' adopts an image, which has a size: resize it afterwards`);
  if (!adopt && size === undefined && backing === undefined) say(`'${name}' needs a backing file, or a size`);
  if (!adopt && readOnly) say(`'${name}' is to be made, so it cannot be read-only`);
}

function formatOf(image: string | undefined): FormatName {
  const extension = extname(image ?? "").slice(1);
  return FORMAT_NAMES.find((name) => name === extension) ?? "qcow2";
}

/** As the engine has it; without one, the usual. */
export function policyOf(policy: NewDisk["onSourceError"]): SourcePolicy {
  if (policy === undefined) return DEFAULT_POLICY;
  return { holdMs: policy.holdMs ?? Number.POSITIVE_INFINITY, afterwards: policy.afterwards };
}
