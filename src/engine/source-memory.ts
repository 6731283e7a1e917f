/**
 * What is known of the sources of a disk that lie on other machines: which version each is, and what of it is zero. Whoever keeps the disk
 * is told of it (`learned`), remembers it, and hands it back when the disk is opened again: so zeroes are answered while the
 * source is away, and another source in its place is noticed. If it is lost, the source is asked anew.
 *
 * There is much to tell while a stream looks around: it is told at most once in `TELL_AFTER_MS`, and before the disk is closed.
 */
import type { BlockNode } from "../block/index.ts";
import { ExtentCache, type KnownSource } from "../filters/index.ts";
import { FileNode, type SourceFacts, type SourceNode, sourceFacts } from "../sources/index.ts";

const TELL_AFTER_MS = 1_000;
/** Of one source: some 20 KiB as JSON. The largest count. */
const MOST_RANGES = 1024;

export class SourceMemory {
  readonly #before: ReadonlyMap<string, KnownSource>;
  readonly #open = new Map<string, { readonly facts: SourceFacts; readonly cache: ExtentCache }>();
  readonly #tell: (known: readonly KnownSource[]) => void;
  #timer: NodeJS.Timeout | undefined;

  /** @param before what was told of the disk when it was open the last time */
  constructor(before: readonly KnownSource[], tell: (known: readonly KnownSource[]) => void) {
    this.#before = new Map(before.map((known) => [known.source, known]));
    this.#tell = tell;
  }

  /**
   * A cache of the extents of a source.
   *
   * @param node what it asks: the source, with what stands before it
   */
  cache(node: BlockNode, source: SourceNode, identity: string): ExtentCache {
    if (source instanceof FileNode) return new ExtentCache(node);
    const remembered = this.#before.get(identity)?.zeroes ?? [];
    const cache = new ExtentCache(node, { remembered, onLearn: () => this.#learned() });
    this.#open.set(identity, { facts: sourceFacts(source), cache });
    this.#learned();
    return cache;
  }

  #learned(): void {
    this.#timer ??= setTimeout(() => this.settle(), TELL_AFTER_MS).unref();
  }

  /** Tells at once what there is to tell. */
  settle(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const known = new Map(this.#before);
    for (const [source, { facts, cache }] of this.#open) {
      known.set(source, { source, ...facts, zeroes: cache.zeroes(MOST_RANGES) });
    }
    this.#tell([...known.values()]);
  }
}
