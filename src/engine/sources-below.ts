/**
 * What stands around each source of a disk, from the source up: a time limit where a read may hang, the watch that knows whether
 * it is alive, the memory of its extents.
 *
 * An NBD link knows of its loss before any request fails, and of its return before any probe is due: it tells the watch.
 *
 * A source that is away from the start is lost from the start: `awaited` makes the watch that tries to open it.
 *
 * A local file that is deleted is told of and read on (ADR 4): neither the watch nor who waits for it takes it for lost.
 */
import type { BlockNode, Clock } from "../block/index.ts";
import type { StreamdiskError } from "../errors/index.ts";
import { Metered, Readahead, SourceWatch, Timed } from "../filters/index.ts";
import { FileNode, type SourceNode, shownReference } from "../sources/index.ts";
import type { SourceFigures, SourceState } from "./disk-spec.ts";
import type { SourceMemory } from "./source-memory.ts";

/** A read of a local source that takes longer than this has no answer coming: a hung file system. */
const SOURCE_TIMEOUT_MS = 30_000;

export class SourcesBelow {
  readonly #watches: SourceWatch[] = [];
  readonly #metered: { readonly uri: string; readonly meter: Metered }[] = [];
  #deleted: string | undefined;
  /** How they were found the last time, and since when. */
  #seen: { readonly state: SourceState["state"]; readonly since: number } = { state: "ok", since: Date.now() };
  readonly #onHealth: () => void;
  readonly #clock: Clock | undefined;

  readonly #memory: SourceMemory;

  /** @param onHealth called when a source is lost, back, deleted, or found to have changed */
  constructor(onHealth: () => void, memory: SourceMemory, clock?: Clock) {
    this.#onHealth = onHealth;
    this.#memory = memory;
    this.#clock = clock;
  }

  get watches(): readonly SourceWatch[] {
    return this.#watches;
  }

  /** Puts around a source what belongs there. */
  wrap(source: SourceNode, identity: string): BlockNode {
    const meter = new Metered(timed(source, this.#clock), this.#clock);
    this.#metered.push({ uri: shownReference(source.name), meter });
    const watch = this.#watch(meter);
    if ("onLink" in source) source.onLink((up, error) => watch.noteLink(up, error));
    if (source instanceof FileNode) source.onDeleted(() => this.#noteDeleted(source.path));
    const cache = this.#memory.cache(watch, source, identity);
    return source instanceof FileNode ? cache : new Readahead(cache);
  }

  /**
   * Watches for a source that is away.
   *
   * @param door answers when the source is there
   */
  awaited(door: BlockNode, error: StreamdiskError): BlockNode {
    const watch = this.#watch(door);
    watch.noteLink(false, error);
    return watch;
  }

  #watch(source: BlockNode): SourceWatch {
    // Those of attempts that failed.
    for (const closed of this.#watches.filter((watch) => watch.closed)) {
      this.#watches.splice(this.#watches.indexOf(closed), 1);
    }
    const clock = this.#clock && { clock: this.#clock };
    const watch = new SourceWatch(source, { onHealth: this.#onHealth, ...clock });
    this.#watches.push(watch);
    return watch;
  }

  #noteDeleted(path: string): void {
    this.#deleted =
      `'${path}' was deleted or replaced while this disk reads it. It is read on as it was, and is gone when the disk is ` +
      "closed: stream the disk to the end before";
    this.#onHealth();
  }

  /** What was asked of each since the disk was opened, also of those that it needs no more. */
  get figures(): SourceFigures[] {
    return this.#metered.map(({ uri, meter }) => ({ uri, ...meter.counts }));
  }

  /** How they are, all together: the first that is not well counts. */
  state(held: number): SourceState {
    const found = this.#find(held);
    if (found.state !== this.#seen.state) this.#seen = { state: found.state, since: Date.now() };
    return found.state === "none" ? found : { ...found, since: this.#seen.since };
  }

  #find(held: number): SourceState {
    const bad = this.#watches.find(({ health }) => health.state !== "ok")?.health;
    if (bad === undefined) {
      if (this.#deleted !== undefined) return { state: "deleted", message: this.#deleted, held };
      return { state: this.#watches.length === 0 ? "none" : "ok", held };
    }
    return { state: bad.state === "changed" ? "changed" : "lost", message: bad.error?.message ?? "", held };
  }
}

/** Only what may hang needs a time limit: a local file has none, an NBD or HTTP source its own. */
function timed(source: SourceNode, clock: Clock | undefined): BlockNode {
  return "remote" in source && source.remote !== undefined
    ? new Timed(source, { timeoutMs: SOURCE_TIMEOUT_MS, ...(clock && { clock }) })
    : source;
}
