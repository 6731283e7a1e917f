import type { BackingReference } from "../block/index.ts";
import { openChain, resolveReference } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { createFormat, type FormatName } from "../formats/index.ts";
import { type SourceOptions, sourceIdentity } from "../sources/index.ts";
import { makeFile } from "./new-file.ts";

export interface CreateImageOptions {
  readonly format: FormatName;
  /** Virtual size in bytes. Absent: that of the backing file. */
  readonly size?: number;
  /** The reference to write into the image: an absolute path, or one relative to the directory of the new image. */
  readonly backing?: string;
  /** Absent: the first bytes of the backing file decide, and the image records it. */
  readonly backingFormat?: FormatName;
  /** Names and values as after `qemu-img create -o`. */
  readonly options?: Readonly<Record<string, string>>;
  /** Overwrites a file that is there and not empty. @default false */
  readonly force?: boolean;
  readonly sourceOptions?: SourceOptions;
}

export interface CreatedImage {
  readonly path: string;
  readonly format: FormatName;
  readonly size: number;
  readonly backing?: string;
  /** What the image says of it; absent when it does not say. */
  readonly backingFormat?: string;
  readonly warnings: readonly string[];
}

/**
 * Makes a new image. When it fails, what was there before is there still.
 *
 * @example
 * await createImage("vm1.qcow2", { format: "qcow2", backing: "debian.qcow2", backingFormat: "qcow2" });
 * @throws {StreamdiskError} `exists` for a file that is not empty, `not-found` for a backing file that is not there,
 *   `invalid-argument` for a raw image over a backing file, a size that cannot be, an option that the format has not
 */
export async function createImage(path: string, options: CreateImageOptions): Promise<CreatedImage> {
  const { format, force = false } = options;
  const backing = await lookBelow(path, options);
  const size = options.size ?? backing?.size;
  if (size === undefined) {
    const message = `'${path}' needs a size, or a backing file to take it from`;
    throw new StreamdiskError("invalid-argument", message, { node: path });
  }
  const given = { size, backing: backing?.reference, options: options.options };
  const made = await makeFile(path, force, (file) => createFormat(format, file, given));
  return {
    path,
    format,
    size: made.size,
    ...(made.backing !== undefined && { backing: made.backing.reference, backingFormat: made.backing.format }),
    warnings: made.warnings,
  };
}

/** Size and format of the backing file. Only its header is looked at: what it names in turn is not opened. */
async function lookBelow(
  path: string,
  { format, backing, backingFormat, sourceOptions }: CreateImageOptions,
): Promise<{ readonly reference: BackingReference; readonly size: number } | undefined> {
  if (backing === undefined) return undefined;
  if (format === "raw") {
    const message = `'${path}' is to be raw, which has no backing file: use qcow2 or qed, or leave '${backing}' away`;
    throw new StreamdiskError("invalid-argument", message, { node: path });
  }
  const file = resolveReference(backing, path);
  const spec = { file, format: backingFormat, readOnly: true, backing: null };
  await using below = await openChain(spec, { sourceOptions });
  const there = await sourceIdentity(path).catch(() => undefined);
  if (there === below.layers[0]?.identity) {
    throw new StreamdiskError("invalid-argument", `'${path}' cannot be its own backing file`, { node: path });
  }
  return { reference: { reference: backing, format: below.node.format }, size: below.node.length };
}
