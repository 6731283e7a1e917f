/**
 * Opens an image and all that lies below it, from the top down: each image names the next one, which is opened before the
 * image that names it is complete.
 *
 * The format of the top is what the caller says, or what its first bytes say. The format of a backing file is what the image
 * above it says; only where that says nothing it is probed, with a warning, since a guest that could write to a
 * raw backing file could have made it look like an image.
 *
 * The top is locked for writing unless it is read-only; backing files are shared with other readers. A chain that comes back
 * to a file that is in it, or is deeper than any real one, is refused.
 *
 * A backing image whose source is away can be opened later (`late-image.ts`): it is a chain of its own, which belongs to that node.
 *
 * Every layer belongs to the chain: a layer that a stream has taken out stays open until the chain is closed, or asked to
 * let go of it (`closeUnlinked`).
 */
import { type BackingReference, type BlockNode, isOverlay, type ZeroRanges } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { KnownSource } from "../filters/index.ts";
import { type FormatName, type FormatNode, type OpenFormatOptions, openFormat, probeFormat } from "../formats/index.ts";
import { openMappingLog } from "../host/index.ts";
import {
  FileNode,
  openSource,
  parseReference,
  type SourceNode,
  shownReference,
  sourceFacts,
  sourceIdentity,
} from "../sources/index.ts";
import { AllowList } from "./allow-list.ts";
import { LateImage, openOrLate } from "./late-image.ts";
import { referencedFormat, resolveReference } from "./reference.ts";
import type { Chain, ChainLayer, ChainPolicy, ImageSpec } from "./spec.ts";

/** Layers of a chain: more than anybody has, and a bound on open files. */
const DEEPEST = 64;

/**
 * @throws {StreamdiskError} `not-found`, `in-use`, `permission`, `invalid-image`, `unsupported`; `refused` for a backing file
 * that the policy does not allow
 */
export async function openChain(spec: ImageSpec, policy: ChainPolicy = {}): Promise<Chain> {
  const allowed = await AllowList.of(spec.file, policy.allowBacking);
  const opener = new ChainOpener(policy, allowed, new Set());
  return opener.chain(spec, spec.file, 0);
}

class ChainOpener {
  /** From the top to the bottom, each from when it is complete. */
  readonly layers: ChainLayer[] = [];
  readonly warnings: string[] = [];
  readonly #policy: ChainPolicy;
  readonly #allowed: AllowList;
  /** Of all layers, to find loops. */
  readonly #identities: Set<string>;

  constructor(policy: ChainPolicy, allowed: AllowList, identities: Set<string>) {
    this.#policy = policy;
    this.#allowed = allowed;
    this.#identities = identities;
  }

  async chain(spec: ImageSpec, named: string, depth: number): Promise<Chain> {
    try {
      const node = await this.open(spec, named, depth);
      return new OpenedChain(node, this.layers, this.warnings);
    } catch (error) {
      await closeAll(this.layers).catch(() => {});
      throw error;
    }
  }

  /** @param named path or URI as the user or the image above wrote it: what relative references in it are relative to */
  async open(spec: ImageSpec, named: string, depth: number): Promise<FormatNode> {
    const readOnly = depth > 0 || (spec.readOnly ?? false);
    const lock = this.#policy.lock === false ? "none" : readOnly ? "shared" : "exclusive";
    const opened = await openSource(spec.file, { readOnly, lock }, this.#policy.sourceOptions);
    let source: BlockNode = opened;
    try {
      const identity = await sourceIdentity(opened);
      this.#identities.add(identity);
      const isSource = depth > 0 || (readOnly && !(opened instanceof FileNode));
      this.#refuseChanged(opened, identity);
      if (isSource) source = this.#policy.wrapSource?.(opened, identity) ?? opened;
      const format = spec.format ?? (await probeFormat(source));
      const file = opened instanceof FileNode ? opened : undefined;
      // What lies elsewhere outlives this process, and needs no log of what it was told.
      const options = { readOnly, log: file && openMappingLog(file.identity, { readOnly }) };
      const node = await this.#openFormat(format, source, options, spec, named, depth);
      this.layers.unshift({ path: spec.file, format, node, file, identity });
      if (file?.lockWarning !== undefined) this.warnings.push(file.lockWarning);
      this.warnings.push(...node.warnings);
      return node;
    } catch (error) {
      await source.close().catch(() => {});
      throw error;
    }
  }

  /** A source that is another than it was must not be mixed with what is known of it, or was fetched from it. */
  #refuseChanged(source: SourceNode, identity: string): void {
    const known = this.#policy.known?.find((other) => other.source === identity);
    if (known === undefined || source instanceof FileNode) return;
    const { length, version } = sourceFacts(source);
    if (length === known.length && version === known.version) return;
    const message =
      `'${source.name}' is not what it was: it has ${length} bytes${version === undefined ? "" : ` (version ${version})`}, and ` +
      `had ${known.length}${known.version === undefined ? "" : ` (version ${known.version})`}`;
    throw new StreamdiskError("changed", message, { node: source.name });
  }

  /** Opens a backing image, now or when its source is back. */
  async #openBelow(spec: ImageSpec, named: string, depth: number): Promise<FormatNode> {
    const { late } = this.#policy;
    if (late === undefined) return this.open(spec, named, depth);
    const open = async (): Promise<Chain> => {
      const opener = new ChainOpener(this.#policy, this.#allowed, this.#identities);
      return opener.chain(spec, named, depth);
    };
    const { known = [] } = this.#policy;
    const zeroes = spec.format === "raw" ? await zeroesOf(spec.file, known) : [];
    const opened = await openOrLate({ open, name: shownReference(spec.file), format: spec.format, zeroes }, late);
    if (opened instanceof LateImage) {
      const { format } = opened;
      this.layers.unshift({ path: spec.file, format, node: opened, file: undefined, identity: spec.file });
      return opened;
    }
    this.layers.unshift(...opened.layers);
    this.warnings.push(...opened.warnings);
    return opened.node;
  }

  async #openFormat(
    format: FormatName,
    file: BlockNode,
    options: OpenFormatOptions,
    spec: ImageSpec,
    named: string,
    depth: number,
  ): Promise<FormatNode> {
    if (spec.backing === null) return openFormat(format, file, options);
    if (this.#policy.forCheck) return openFormat(format, file, { ...options, forCheck: true });
    let broken: { readonly error: unknown } | undefined;
    const openBacking = async (reference: BackingReference): Promise<FormatNode> => {
      try {
        if (spec.backing) return await this.#openBelow(spec.backing, spec.backing.file, depth + 1);
        return await this.#openReference(reference, named, format, depth + 1);
      } catch (error) {
        broken = { error };
        throw error;
      }
    };
    try {
      return await openFormat(format, file, { ...options, openBacking });
    } catch (error) {
      if (!this.#policy.partial || broken?.error !== error) throw error;
      this.warnings.push(error instanceof Error ? error.message : String(error));
      return openFormat(format, file, options);
    }
  }

  async #openReference(
    reference: BackingReference,
    image: string,
    imageFormat: FormatName,
    depth: number,
  ): Promise<FormatNode> {
    if (depth >= DEEPEST) {
      const message = `The backing chain below '${image}' is deeper than ${DEEPEST} images`;
      throw new StreamdiskError("invalid-image", message, { node: image });
    }
    const named = resolveReference(reference.reference, image);
    const format = referencedFormat(reference, image);
    const path = await this.#allowed.demand(named, reference.reference, image);
    try {
      // Before its lock is asked for: a loop would find the file in use, by ourselves.
      if (this.#identities.has(await sourceIdentity(path))) {
        const message = `'${shownReference(image)}' names '${shownReference(path)}' as its backing file, which lies above it in the same chain`;
        throw new StreamdiskError("invalid-image", message, { node: image });
      }
      const node = await this.#openBelow({ file: path, format, readOnly: true }, named, depth);
      // QED has no word but "raw": that it does not say that is all it can say of another format.
      const isGuess = format === undefined && !(node instanceof LateImage);
      if (isGuess && !(imageFormat === "qed" && node.format !== "raw")) {
        this.warnings.push(
          `'${shownReference(image)}' does not say of which format its backing file '${shownReference(path)}' is: it looks like ${node.format}. ` +
            "Make it say so with rebase, or what a guest writes may change it",
        );
      }
      return node;
    } catch (error) {
      if (!(error instanceof StreamdiskError) || error.code !== "not-found" || error.context.node !== path) throw error;
      const message = `The backing file '${shownReference(path)}' of '${shownReference(image)}' is not there: put it back, or name another with rebase`;
      throw new StreamdiskError("not-found", message, error.context, error);
    }
  }
}

/** What is known to be zero of a source that may be away. */
async function zeroesOf(reference: string, known: readonly KnownSource[]): Promise<ZeroRanges> {
  if (known.length === 0 || parseReference(reference).kind === "file") return [];
  const identity = await sourceIdentity(reference);
  return known.find(({ source }) => source === identity)?.zeroes ?? [];
}

class OpenedChain implements Chain {
  readonly node: FormatNode;
  readonly warnings: readonly string[];
  #opened: readonly ChainLayer[];

  constructor(node: FormatNode, opened: readonly ChainLayer[], warnings: readonly string[]) {
    this.node = node;
    this.#opened = opened;
    this.warnings = warnings;
  }

  get layers(): readonly ChainLayer[] {
    const linked = this.#linked();
    return this.#opened.flatMap(wholeOf).filter(({ node }) => linked.has(node));
  }

  #linked(): ReadonlySet<BlockNode> {
    const linked = new Set<BlockNode>();
    for (let node: BlockNode | undefined = this.node; node !== undefined; node = node.backing) linked.add(node);
    return linked;
  }

  get whole(): boolean {
    const bottom = this.layers.at(-1)?.node ?? this.node;
    return !isOverlay(bottom) || bottom.backingReference === undefined;
  }

  async closeUnlinked(): Promise<void> {
    const linked = this.#linked();
    // An image that was away has what lies below it, and stays for that.
    const needed = this.#opened.filter((layer) => wholeOf(layer).some(({ node }) => linked.has(node)));
    await closeAll(this.#opened.filter((layer) => !needed.includes(layer)));
    // With them goes what they remember.
    this.#opened = needed;
  }

  close(): Promise<void> {
    return closeAll(this.#opened);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A layer, and what came with it. */
function wholeOf(layer: ChainLayer): readonly ChainLayer[] {
  const { node } = layer;
  return node instanceof LateImage ? [{ ...layer, format: node.format }, ...node.deeper] : [layer];
}

/** Closes the top first, and every layer whatever happens; the first error counts. */
async function closeAll(layers: readonly ChainLayer[]): Promise<void> {
  let failed: { readonly error: unknown } | undefined;
  for (const { node } of layers) {
    try {
      await node.close();
    } catch (error) {
      failed ??= { error };
    }
  }
  if (failed !== undefined) throw failed.error;
}
