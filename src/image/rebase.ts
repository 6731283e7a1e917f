/**
 * Changes the reference to the backing file and nothing else: for a source that has moved. No data is copied, so the new
 * backing file must read as the old one did, or the image's content changes under its owner.
 *
 * While the old chain can be read, that is looked into: sizes, the first and the last MiB, and ranges at random among what either
 * of the two has data in. When it is gone, or another has come in its place, whoever asks may remember its size and its
 * version. What is left to look at are ranges that are local: those that a stream fetched read as the backing file, those that the guest wrote do not, and no
 * image tells which is which. So ranges that agree are counted as evidence and those that don't mean nothing.
 * Another size is never right; another version of the file may be a copy, which only ranges that agree can show.
 */
import { type BackingReference, type BlockNode, isOverlay, layerExtents, type OverlayNode } from "../block/index.ts";
import { type Chain, openChain, resolveReference } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { KnownSource } from "../filters/index.ts";
import { FORMAT_NAMES, type FormatName, type FormatNode } from "../formats/index.ts";
import {
  parseReference,
  type SourceFacts,
  type SourceNode,
  shownReference,
  sourceFacts,
  sourceIdentity,
} from "../sources/index.ts";
import { overlayTarget, takeTally } from "../stream/index.ts";
import { finallyClose } from "./open.ts";
import type { ImageOptions } from "./options.ts";
import { agreeingBytes, differenceInSamples } from "./samples.ts";

export interface RebaseImageOptions extends ImageOptions {
  /** The new reference, as it shall stand in the image; undefined: none. */
  readonly backing: string | undefined;
  /** Absent: the first bytes of the file decide. */
  readonly backingFormat?: FormatName;
  /** What is remembered of the old backing file, for when it cannot be read any more. */
  readonly remembered?: RememberedBacking;
  /** Writes a reference that cannot be right, or whose file cannot be read. @default false */
  readonly force?: boolean;
}

export interface RememberedBacking {
  /** Virtual size in bytes. */
  readonly length: number | undefined;
  /** The files of it and of what lay below it, as far as they were on other machines. */
  readonly sources: readonly KnownSource[];
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
  const known = options.remembered?.sources ?? [];
  const image = await openChain({ file: path, format }, { allowBacking, sourceOptions, partial: true, known });
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
      const found =
        below === undefined ? nothingFound(options.backing) : await compare(image, overlay, below, options, path);
      const reference = referenceOf(options, below?.chain);
      await overlay.changeBacking(reference, below?.chain.node);
      return { from, to: reference.reference, ...found, warnings: [...image.warnings, ...found.warnings] };
    } finally {
      await below?.chain.close();
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

interface NewBacking {
  readonly chain: Chain;
  /** Of its file. */
  readonly facts: SourceFacts | undefined;
}

/** @returns undefined for a file that cannot be read, when forced */
async function openNew(path: string, backing: string, options: RebaseImageOptions): Promise<NewBacking | undefined> {
  const { backingFormat, allowBacking, sourceOptions, force } = options;
  try {
    let facts: SourceFacts | undefined;
    const wrapSource = (source: SourceNode): SourceNode => {
      // The first is the file itself, unless that is a local one: then all are of what lies below.
      facts ??= sourceFacts(source);
      return source;
    };
    const spec = { file: resolveReference(backing, path), format: backingFormat, readOnly: true };
    const chain = await openChain(spec, { allowBacking, sourceOptions, wrapSource });
    const file = chain.layers[0]?.file;
    return { chain, facts: file === undefined ? facts : sourceFacts(file) };
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
  { chain: { node, warnings }, facts }: NewBacking,
  { force, remembered }: RebaseImageOptions,
  path: string,
): Promise<Findings> {
  if (overlay.backingReference === undefined && !force) await refuseAlone(overlay, node.name);
  const old = image.whole ? overlay.backing : undefined;
  const { compared, wrong, doubts } =
    old === undefined
      ? await compareRemembered(overlay, node, { facts, remembered, path })
      : await compareReadable(old, node);
  if (wrong === undefined) return { compared, warnings: [...warnings, ...doubts] };
  const said = `The new backing file '${node.name}' of '${overlay.name}' ${wrong.what}`;
  if (!force) {
    const { offset } = wrong;
    const context = { node: node.name, ...(offset !== undefined && { offset }) };
    throw new StreamdiskError("refused", `${said}: write it all the same with --force (force: true)`, context);
  }
  return { compared, warnings: [...warnings, said, ...doubts] };
}

interface Verdict {
  readonly compared: number;
  readonly wrong: { readonly what: string; readonly offset?: number } | undefined;
  readonly doubts: readonly string[];
}

async function compareReadable(old: BlockNode, node: FormatNode): Promise<Verdict> {
  const { compared, difference } = await differenceInSamples(old, node);
  if (old.length !== node.length) {
    return { compared, wrong: { what: otherSize(node.length, old.name, old.length) }, doubts: [] };
  }
  if (difference === undefined) return { compared, wrong: undefined, doubts: [] };
  const what = `differs from the old one, '${old.name}', at ${difference}`;
  return { compared, wrong: { what, offset: difference }, doubts: [] };
}

function otherSize(length: number, oldName: string, oldLength: number): string {
  return `has ${length} bytes and the old one, '${oldName}', ${oldLength}`;
}

async function compareRemembered(
  overlay: OverlayNode,
  node: FormatNode,
  { facts, remembered, path }: Pick<NewBacking, "facts"> & Pick<RebaseImageOptions, "remembered"> & { path: string },
): Promise<Verdict> {
  const compared = await agreeingBytes(overlay, node);
  const reference = overlay.backingReference;
  if (reference === undefined) return { compared, wrong: undefined, doubts: [] };
  const name = shownReference(reference.reference);
  const length = remembered?.length;
  if (length !== undefined && length !== node.length) {
    return { compared, wrong: { what: otherSize(node.length, name, length) }, doubts: [] };
  }
  const doubts = doubtsOf(overlay, name, node, compared, length);
  const known = await knownFile(resolveReference(reference.reference, path), remembered?.sources ?? []);
  const other = facts && known && otherFile(facts, known, reference.format === node.format);
  if (other === undefined || compared > 0) return { compared, wrong: undefined, doubts };
  const what = `${other} the old one, '${name}', and nothing here could be compared with it`;
  return { compared, wrong: { what }, doubts: [] };
}

async function knownFile(reference: string, known: readonly KnownSource[]): Promise<KnownSource | undefined> {
  if (known.length === 0 || parseReference(reference).kind === "file") return undefined;
  const identity = await sourceIdentity(reference);
  return known.find(({ source }) => source === identity);
}

/** How one file is told from another without a look at its bytes; undefined when it is not. */
function otherFile(now: SourceFacts, was: SourceFacts, sameFormat: boolean): string | undefined {
  if (sameFormat && now.length !== was.length) return `is a file of ${now.length} bytes, and of ${was.length} was`;
  if (now.version === undefined || was.version === undefined || now.version === was.version) return undefined;
  return `is of the version ${now.version}, and of ${was.version} was`;
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

function doubtsOf(
  overlay: OverlayNode,
  old: string,
  { name, length }: FormatNode,
  compared: number,
  oldLength: number | undefined,
): string[] {
  const found: string[] = [];
  if (compared === 0) {
    found.push(
      `The old backing file '${old}' cannot be read, and nothing in '${overlay.name}' is known to agree with '${name}'`,
    );
  }
  if (oldLength === undefined && length !== overlay.length) {
    found.push(
      `The new backing file '${name}' has ${length} bytes and '${overlay.name}' ${overlay.length}: the old one may have had as many`,
    );
  }
  return found;
}
