/**
 * Changes the reference to the backing file and nothing else: for a source that has moved. No data is copied, so the new
 * backing file must read as the old one did, or the image's content changes under its owner.
 *
 * While the old chain can be read, that is looked into: sizes, the first and the last MiB, and ranges at random among what either
 * of the two has data in. When it is gone nothing below the image can be known any more. What is left to look at are
 * ranges that are local: those that a stream fetched read as the backing file, those that the guest wrote do not, and no
 * image tells which is which. So ranges that agree are counted as evidence and those that don't mean nothing.
 */
import { type BackingReference, isOverlay, layerExtents, type OverlayNode } from "../block/index.ts";
import { type Chain, openChain, resolveReference } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import { overlayTarget, takeTally } from "../stream/index.ts";
import { finallyClose } from "./open.ts";
import type { ImageOptions } from "./options.ts";
import { agreeingBytes, differenceInSamples } from "./samples.ts";

export interface RebaseImageOptions extends ImageOptions {
  /** The new reference, as it shall stand in the image; undefined: none. */
  readonly backing: string | undefined;
  /** Absent: the first bytes of the file decide. */
  readonly backingFormat?: FormatName;
  /** Writes a reference that cannot be right, or whose file cannot be read. @default false */
  readonly force?: boolean;
}

export interface RebaseResult {
  readonly from?: string;
  readonly to?: string;
  /** Bytes that were read through the old and the new reference, or from the image and the new reference, and found equal. */
  readonly compared: number;
  readonly warnings: readonly string[];
}

/**
 * Changes the reference to the backing file, and nothing else.
 *
 * @throws {StreamdiskError} `refused` for a reference that cannot be right: another size or content than the old one has,
 *   or none while something is missing; `not-found` for a file that is not there
 */
export async function rebaseImage(path: string, options: RebaseImageOptions): Promise<RebaseResult> {
  const { format, allowBacking, sourceOptions } = options;
  const image = await openChain({ file: path, format }, { allowBacking, sourceOptions, partial: true });
  return finallyClose(image, async () => {
    const overlay = overlayOf(image);
    const from = overlay.backingReference?.reference;
    if (options.backing === undefined) {
      await refuseMissing(overlay, image.whole, options);
      await overlay.changeBacking(undefined, undefined);
      return { from, compared: 0, warnings: image.warnings };
    }
    const below = await openNew(path, options.backing, options);
    try {
      const found = below === undefined ? nothingFound(options.backing) : await compare(image, overlay, below, options);
      const reference = referenceOf(options, below);
      await overlay.changeBacking(reference, below?.node);
      return { from, to: reference.reference, ...found, warnings: [...image.warnings, ...found.warnings] };
    } finally {
      await below?.close();
    }
  });
}

interface Findings {
  readonly compared: number;
  readonly warnings: readonly string[];
}

function nothingFound(backing: string): Findings {
  return { compared: 0, warnings: [`'${backing}' cannot be read: nothing was compared`] };
}

function overlayOf({ node }: Chain): OverlayNode {
  if (isOverlay(node)) return node;
  const message = `'${node.name}' is a ${node.format} image, which cannot have a backing file`;
  throw new StreamdiskError("invalid-argument", message, { node: node.name });
}

/** Without a backing file what is missing would read as zeroes. */
async function refuseMissing(overlay: OverlayNode, whole: boolean, { force }: RebaseImageOptions): Promise<void> {
  if (force || overlay.backingReference === undefined) return;
  const missing = whole ? (await takeTally(overlayTarget(overlay))).missing : undefined;
  if (missing === 0) return;
  const what =
    missing === undefined
      ? "cannot be read, so what is missing cannot be known"
      : `has ${missing} bytes that are missing here`;
  const message =
    `'${overlay.name}' needs its backing file '${overlay.backingReference.reference}', which ${what}: ` +
    "fetch them with stream, or lose them with --force (force: true)";
  throw new StreamdiskError("refused", message, { node: overlay.name });
}

/** @returns undefined for a file that cannot be read, when forced */
async function openNew(path: string, backing: string, options: RebaseImageOptions): Promise<Chain | undefined> {
  const { backingFormat, allowBacking, sourceOptions, force } = options;
  try {
    return await openChain(
      { file: resolveReference(backing, path), format: backingFormat, readOnly: true },
      { allowBacking, sourceOptions },
    );
  } catch (error) {
    if (!force || !(error instanceof StreamdiskError) || error.code === "in-use") throw error;
    if (backingFormat !== undefined) return undefined;
    const message = `${error.message}. To write the reference all the same, name its format (${FORMAT_NAMES.join(", ")})`;
    throw new StreamdiskError(error.code, message, error.context, error);
  }
}

function referenceOf({ backing = "", backingFormat }: RebaseImageOptions, below: Chain | undefined): BackingReference {
  return { reference: backing, format: below?.node.format ?? backingFormat };
}

async function compare(
  image: Chain,
  overlay: OverlayNode,
  { node, warnings }: Chain,
  { force }: RebaseImageOptions,
): Promise<Findings> {
  if (overlay.backingReference === undefined && !force) await refuseAlone(overlay, node.name);
  const old = image.whole ? overlay.backing : undefined;
  if (old === undefined) {
    const compared = await agreeingBytes(overlay, node);
    return { compared, warnings: [...warnings, ...doubts(overlay, node.name, node.length, compared)] };
  }
  const samples = await differenceInSamples(old, node);
  const size =
    old.length === node.length ? undefined : `has ${node.length} bytes and the old one, '${old.name}', ${old.length}`;
  const content =
    samples.difference === undefined ? undefined : `differs from the old one, '${old.name}', at ${samples.difference}`;
  const wrong = size ?? content;
  if (wrong === undefined) return { compared: samples.compared, warnings };
  const said = `The new backing file '${node.name}' of '${overlay.name}' ${wrong}`;
  if (!force) {
    throw new StreamdiskError("refused", `${said}: write it all the same with --force (force: true)`, {
      node: node.name,
    });
  }
  return { compared: samples.compared, warnings: [...warnings, said] };
}

/** An image that stands alone reads as zeroes where it has nothing, and would read as the backing file. */
async function refuseAlone(overlay: OverlayNode, backing: string): Promise<void> {
  for await (const { kind, offset } of layerExtents(overlay)) {
    if (kind !== "missing") continue;
    const message =
      `'${overlay.name}' stands alone and reads as zeroes at ${offset}, where it would read as '${backing}' does: ` +
      "write the reference all the same with --force (force: true)";
    throw new StreamdiskError("refused", message, { node: overlay.name, offset });
  }
}

function doubts(overlay: OverlayNode, name: string, length: number, compared: number): string[] {
  if (overlay.backingReference === undefined) return [];
  const old = overlay.backingReference.reference;
  const found: string[] = [];
  if (compared === 0) {
    found.push(
      `The old backing file '${old}' cannot be read, and nothing in '${overlay.name}' is known to agree with '${name}'`,
    );
  }
  if (length !== overlay.length) {
    found.push(
      `The new backing file '${name}' has ${length} bytes and '${overlay.name}' ${overlay.length}: the old one may have had as many`,
    );
  }
  return found;
}
