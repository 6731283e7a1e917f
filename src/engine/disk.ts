/**
 * A disk as a whole, in the thread that has it: the chain of images, what happens on the way from the source, copy-on-read, the
 * export, the stream job.
 *
 *     guest -> NBD server -> hold -> copy-on-read -> overlay -> backing format -> readahead -> extent cache -> watch -> source
 *                                     stream job -> overlay, and below it by the same way
 *
 * A guest's request may be held while the source is dead; the stream job waits by itself. The disk is hydrated when a stream has
 * ended; then the layers below are closed and the export lives on.
 */
import { type BlockNode, isOverlay, type OverlayNode } from "../block/index.ts";
import { type Chain, LateImage, openChain } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import { type Cells, type CellsPart, type MapEntry, nodeCells, nodeMap, resizeNode } from "../image/index.ts";
import { type NbdClient, type NbdServer, serveNbd, type Traffic } from "../nbd/index.ts";
import { shownReference } from "../sources/index.ts";
import { type StepResult, type StreamBase, StreamJob, type StreamTarget, stepStream } from "../stream/index.ts";
import { Activity } from "./activity.ts";
import { AllocationCount } from "./allocation.ts";
import type {
  BaseLayer,
  DiskEvent,
  DiskInfo,
  DiskLive,
  DiskSpec,
  LoadSample,
  MapPage,
  MapPart,
  SourceState,
  StreamSpec,
} from "./disk-spec.ts";
import { exportOf, type GuestSide, guestSide } from "./guest-side.ts";
import { LoadLog, type LoadSource } from "./load-log.ts";
import { SourceMemory } from "./source-memory.ts";
import { SourcesBelow } from "./sources-below.ts";
import { baseOfStream, layerOf } from "./stream-base.ts";
import { WatchedTarget } from "./watched-target.ts";

/** How long a disk waits to be served for a backing file that does not answer: then it is served, and that is lost. */
const PATIENCE_MS = 10_000;
/** How long a close waits for replies under way. */
const DRAIN_MS = 5_000;

interface DiskParts {
  readonly chain: Chain;
  /** Absent for a local image that stands alone. */
  readonly guest: GuestSide | undefined;
  readonly server: NbdServer;
  readonly sources: SourcesBelow;
  readonly memory: SourceMemory;
  readonly activity: Activity;
}

export class Disk implements LoadSource {
  readonly #spec: DiskSpec;
  readonly #emit: (event: DiskEvent) => void;
  readonly #chain: Chain;
  readonly #guest: GuestSide | undefined;
  readonly #server: NbdServer;
  readonly #sources: SourcesBelow;
  readonly #memory: SourceMemory;
  readonly #load: LoadLog;
  readonly #allocation: AllocationCount;
  readonly #activity: Activity;
  #job: StreamJob | undefined;
  /** Bytes that streams before this one, and steps, have fetched. */
  #streamedBefore = 0;
  #streaming: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  private constructor(spec: DiskSpec, emit: (event: DiskEvent) => void, parts: DiskParts) {
    this.#spec = spec;
    this.#emit = emit;
    this.#chain = parts.chain;
    this.#guest = parts.guest;
    this.#server = parts.server;
    this.#sources = parts.sources;
    this.#memory = parts.memory;
    this.#load = new LoadLog(this);
    this.#allocation = new AllocationCount(parts.chain.node, () => this.#changes());
    this.#activity = parts.activity;
  }

  /** Opens and exports a disk; it answers from then on. */
  static async open(spec: DiskSpec, emit: (event: DiskEvent) => void): Promise<Disk> {
    const { image: file, format, readOnly, backing, backingFormat, allowBacking, sourceOptions } = spec;
    const below = backing === undefined ? {} : { backing: { file: backing, format: backingFormat } };
    const activity = new Activity();
    const memory = new SourceMemory(spec.knownSources, (known) => emit({ type: "learned", known }));
    const onHealth = (): void => {
      emit({ type: "source", source: sources.state(0) });
      activity.touch();
    };
    const sources = new SourcesBelow(onHealth, memory);
    const wrapSource = sources.wrap.bind(sources);
    const late = { watch: sources.awaited.bind(sources), patienceMs: PATIENCE_MS };
    const policy = { allowBacking, sourceOptions, wrapSource, late, known: spec.knownSources };
    const chain = await openChain({ file, format, readOnly, ...below }, policy);
    let server: NbdServer | undefined;
    try {
      refuseReadOnly(chain, spec);
      const guest = guestSide(chain, spec, sources.watches, activity, () => emit({ type: "pause" }));
      server = await serveNbd({
        listen: spec.listen,
        tls: spec.tls,
        exports: [exportOf(spec, chain, activity, guest)],
      });
      const disk = new Disk(spec, emit, { chain, guest, server, sources, memory, activity });
      if (spec.stream !== undefined) await disk.stream(spec.stream);
      return disk;
    } catch (error) {
      await server?.close().catch(() => {});
      await chain.close().catch(() => {});
      throw error;
    }
  }

  /** The image, as messages show it. */
  get #name(): string {
    return shownReference(this.#spec.image);
  }

  get uri(): string {
    return this.#server.uri;
  }

  get #isHydrated(): boolean {
    const { node } = this.#chain;
    return !isOverlay(node) || node.backingReference === undefined;
  }

  get #source(): SourceState {
    // An image that is on a server is itself its source.
    const standsAlone = this.#isHydrated && this.#chain.layers[0]?.file !== undefined;
    return standsAlone ? { state: "none", held: 0 } : this.#sources.state(this.#guest?.hold.held ?? 0);
  }

  async info(): Promise<DiskInfo> {
    const { node } = this.#chain;
    const bytes = await this.#allocation.count();
    const hydrated = this.#isHydrated;
    const load = this.#load.last;
    const below = node.backing === undefined ? undefined : lengthBelow(node.backing);
    return {
      image: this.#name,
      uri: this.uri,
      below: this.#chain.layers.slice(1).map(({ path }) => shownReference(path)),
      format: node.format,
      length: node.length,
      ...(below !== undefined && { backingLength: below }),
      localBytes: bytes.data,
      // What an image that stands alone has never allocated reads as zeroes.
      zeroBytes: hydrated ? bytes.zero + bytes.missing : bytes.zero,
      missingBytes: hydrated ? 0 : bytes.missing,
      hydrated,
      clients: this.#server.connections,
      source: this.#source,
      sources: this.#sources.figures,
      fetchedBytes: this.fetchedBytes,
      streamedBytes: this.streamedBytes,
      traffic: this.traffic().figures(),
      ...(load !== undefined && { load }),
      ...(this.#job !== undefined && { stream: this.#job.progress }),
      warnings: this.#chain.warnings,
    };
  }

  get requests(): number {
    return this.#server.requests;
  }

  traffic(): Traffic {
    return this.#server.traffic();
  }

  get fetchedBytes(): number {
    return this.#guest?.copyOnRead?.counts.fetched ?? 0;
  }

  get streamedBytes(): number {
    return this.#streamedBefore + (this.#job?.progress.copiedBytes ?? 0);
  }

  /** Differs whenever something may have been allocated: by guests, for them, or by a stream. */
  #changes(): string {
    const kept = this.#guest?.copyOnRead?.counts.kept ?? 0;
    return [this.requests, kept, this.streamedBytes, this.#chain.node.length].join(" ");
  }

  /** Who is connected, and what each has had. */
  clients(): NbdClient[] {
    return this.#server.clients();
  }

  /** What it had to do, second by second, since a moment in milliseconds since 1970. */
  load(since: number): LoadSample[] {
    return this.#load.since(since);
  }

  /** What a reader sees from `offset` on, in at most `limit` entries. */
  async mapPage({ offset, limit }: MapPart): Promise<MapPage> {
    const { node } = this.#chain;
    for (;;) {
      const below = node.backing;
      const entries: MapEntry[] = [];
      try {
        for await (const entry of nodeMap(node, offset)) {
          entries.push(entry);
          const next = entry.start + entry.length;
          if (entries.length === limit && next < node.length) return { entries, next };
        }
        return { entries };
      } catch (error) {
        // The stream has ended, and closed what lay below.
        if (node.backing === below) throw error;
      }
    }
  }

  /** The map for drawing. */
  cells(part: CellsPart): Promise<Cells> {
    return nodeCells(this.#chain.node, part);
  }

  /** What goes on, now. */
  live(changes = this.#activity.now()): DiskLive {
    return { ...changes, source: this.#source, clients: this.#server.connections };
  }

  /** Tells what happens, from now on or no more. */
  watch(on: boolean): void {
    const tell = (): void => this.#emit({ type: "live", live: this.live(this.#activity.take()) });
    this.#activity.watch(on ? tell : undefined);
  }

  /** What guests wait for fails, and what comes until `release`: their machine is to be stopped (`Hold`). */
  async failHeld(): Promise<void> {
    await this.#guest?.hold.failHeld();
  }

  release(): void {
    this.#guest?.hold.release();
  }

  setPolicy(policy: SourcePolicy): void {
    this.#guest?.hold.setPolicy(policy);
  }

  /** Starts a stream, unless one runs. A base that cannot be looked for now is waited for. */
  async stream({ base, ...options }: StreamSpec): Promise<void> {
    const overlay = this.#overlay();
    if (base !== undefined) {
      await this.#findBase(base).catch((error) => {
        if (!(error instanceof StreamdiskError) || error.code !== "source-lost") throw error;
      });
    }
    if (this.#streaming !== undefined) return;
    this.#streamedBefore = this.streamedBytes;
    const freeSpace = async () => this.#chain.layers[0]?.file?.freeSpace();
    this.#job = new StreamJob(this.#target(overlay, base), {
      ...options,
      retryFor: Number.POSITIVE_INFINITY,
      freeSpace,
    });
    this.#streaming = this.#run(this.#job).finally(() => {
      this.#streaming = undefined;
    });
  }

  async #run(job: StreamJob): Promise<void> {
    try {
      for await (const progress of job) {
        this.#activity.touch();
        this.#emit({ type: "progress", progress });
      }
      await this.#linkChanged();
    } catch (error) {
      if (error instanceof StreamdiskError) {
        this.#emit({ type: "stream-failed", code: error.code, message: error.message });
      } else if (!(error instanceof Error) || error.name !== "AbortError") throw error;
    }
  }

  /** The link is broken, or goes to a base: what lies below no more is let go of. */
  async #linkChanged(): Promise<void> {
    await this.#chain.closeUnlinked();
    this.#activity.touch();
    this.#emit({ type: this.#isHydrated ? "hydrated" : "base-reached" });
  }

  /** Which layer is meant by the base of a stream. */
  async base(named: string): Promise<BaseLayer> {
    return layerOf(this.#chain, await this.#findBase(named));
  }

  #findBase(named: string): Promise<StreamBase> {
    return baseOfStream(this.#chain, named, this.#spec.backing);
  }

  /** Fetches nothing more; what was fetched stays. */
  async cancelStream(): Promise<void> {
    this.#job?.cancel();
    await this.#streaming;
  }

  setSpeed(speed: number | undefined): void {
    if (this.#job === undefined) throw new StreamdiskError("invalid-argument", `'${this.#name}' has no stream`);
    this.#job.setSpeed(speed);
  }

  /** One increment of a stream, while none runs. */
  async step(options: { readonly offset?: number; readonly length: number }): Promise<StepResult> {
    this.#refuseWhileStreaming();
    const stoodAlone = this.#isHydrated;
    const result = await stepStream(this.#target(this.#overlay()), options);
    this.#streamedBefore += result.copied;
    if (result.done && !stoodAlone) await this.#linkChanged();
    return result;
  }

  /** Changes the virtual size, while no stream runs. Clients that are connected see the old one until they connect again. */
  async resize({ length, shrink }: { readonly length: number; readonly shrink: boolean }): Promise<void> {
    this.#refuseWhileStreaming();
    await resizeNode(this.#chain.node, length, { shrink });
  }

  #refuseWhileStreaming(): void {
    if (this.#streaming === undefined) return;
    throw new StreamdiskError("in-use", `'${this.#name}' is being streamed: cancel that first, or let it run`);
  }

  #target(overlay: OverlayNode, base?: string): StreamTarget {
    return new WatchedTarget(overlay, this.#activity, async () =>
      base === undefined ? undefined : this.#findBase(base),
    );
  }

  #overlay(): OverlayNode {
    const { node } = this.#chain;
    if (isOverlay(node) && !node.readOnly) return node;
    const why = isOverlay(node) ? "is served read-only" : `is a ${node.format} image, which has no backing file`;
    throw new StreamdiskError("invalid-argument", `'${this.#name}' cannot be streamed: it ${why}`);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Guests first, then what feeds them. */
  async #close(): Promise<void> {
    try {
      await this.#server.close({ drainMs: DRAIN_MS });
      this.#load.stop();
      await this.cancelStream();
      await this.#guest?.hold.close();
      this.#memory.settle();
    } finally {
      await this.#chain.close();
    }
  }
}

/** One that has not been there yet has no length. */
function lengthBelow(node: BlockNode): number | undefined {
  return node instanceof LateImage && !node.isThere ? undefined : node.length;
}

/** A guest that was promised a disk to write on shall not find out later. */
function refuseReadOnly({ node, layers }: Chain, { image, readOnly }: DiskSpec): void {
  if (readOnly || !node.readOnly || layers[0]?.file !== undefined) return;
  const message =
    `'${shownReference(image)}' can only be read there: serve it with --read-only (readOnly: true), or serve a new image ` +
    "over it, with --create and --backing";
  throw new StreamdiskError("refused", message, { node: shownReference(image) });
}
