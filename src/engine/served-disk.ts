/** A served disk, seen from the control plane: a handle to the disk in its thread. */
import { EventEmitter, on } from "node:events";
import { StreamdiskError } from "../errors/index.ts";
import type { KnownSource, SourcePolicy } from "../filters/index.ts";
import type { Cells, CellsPart, MapEntry } from "../image/index.ts";
import {
  libvirtDisk,
  type NbdClient,
  parseNbdUri,
  qemuBlockdev,
  qemuDisk,
  qemuNode,
  type ServeNbdOptions,
} from "../nbd/index.ts";
import type { StepResult, StreamProgress } from "../stream/index.ts";
import type {
  BaseLayer,
  DiskEvent,
  DiskInfo,
  DiskLive,
  LoadSample,
  MapPage,
  MapPart,
  SourceState,
  StreamSpec,
} from "./disk-spec.ts";
import { LiveQueue } from "./live-queue.ts";
import type { DiskPlace } from "./threads.ts";

export interface ServedDiskFacts {
  readonly uri: string;
  readonly image: string;
  readonly listen: ServeNbdOptions["listen"];
  readonly exportName: string;
  readonly readOnly: boolean;
  /** What QEMU shall call the node. */
  readonly nodeName: string;
}

interface ServedDiskEvents {
  progress: [StreamProgress];
  source: [SourceState];
  pause: [];
  hydrated: [];
  "base-reached": [];
  "stream-failed": [StreamdiskError];
  learned: [readonly KnownSource[]];
  lost: [StreamdiskError];
  closed: [];
}

/** Entries of a map that come from a thread at once, unless fewer are asked for. */
const MAP_PAGE = 4096;

/** After these a stream tells nothing more. */
const ENDS = ["hydrated", "base-reached", "stream-failed", "lost", "closed"] as const;

/**
 * Made by `serveDisk`. Events: `progress`, `source` (lost, back, changed or deleted), `pause` (the policy says so: stop the machine),
 * `hydrated`, `base-reached` (the end of a stream down to a base), `stream-failed`, `learned` (what is to be handed in as `knownSources` the next time), `lost` (its
 * thread has died: the disk may be served again at once), `closed`.
 */
export class ServedDisk extends EventEmitter<ServedDiskEvents> implements AsyncDisposable {
  readonly #place: DiskPlace;
  readonly #facts: ServedDiskFacts;
  readonly #watchers = new Set<LiveQueue>();
  #progress: StreamProgress | undefined;
  #end: "hydrated" | "base-reached" | StreamdiskError | undefined;
  #cleanUp: () => Promise<void> | undefined = () => undefined;
  #closing: Promise<void> | undefined;

  constructor(place: DiskPlace, facts: ServedDiskFacts) {
    super();
    this.#place = place;
    this.#facts = facts;
  }

  /** Address of the export, as the uri specification of the NBD project has it. */
  get uri(): string {
    return this.#facts.uri;
  }

  /** The image, as messages show it: an address on the web without what gives access. */
  get image(): string {
    return this.#facts.image;
  }

  get readOnly(): boolean {
    return this.#facts.readOnly;
  }

  /** The Unix socket, when it is one. */
  get socketPath(): string | undefined {
    const { listen } = this.#facts;
    return "path" in listen ? listen.path : undefined;
  }

  /** The TCP port, when it is one. */
  get port(): number | undefined {
    const address = parseNbdUri(this.uri);
    return address.unix ? undefined : address.port;
  }

  get exportName(): string {
    return this.#facts.exportName;
  }

  /**
   * What QEMU needs to use the disk: a node, and unless `device` is false a virtio device on it. The device stops the machine on
   * errors rather than hand them to the guest, as the policy "pause" needs.
   */
  qemuArgs({ device = true }: { readonly device?: boolean } = {}): string[] {
    const args = qemuDisk(this, this.#facts.nodeName);
    return device ? args : args.slice(0, 2);
  }

  /** The `-blockdev` option alone. With TLS it needs `-object tls-creds-x509` or `tls-creds-psk`, called `tls0`, of the client. */
  qemuBlockdev(): string {
    return qemuBlockdev(qemuNode(this, this.#facts.nodeName));
  }

  /** The `<disk>` for a domain's XML of libvirt, line by line. */
  libvirtDisk(): string[] {
    return libvirtDisk(this);
  }

  /** Set when the thread of the disk has died: it is served no more, and every call fails with this. */
  get lost(): StreamdiskError | undefined {
    return this.#place.thread.dead;
  }

  /** How the stream is, now and whenever that changes, until it has ended. */
  async *progress(): AsyncGenerator<StreamProgress, void, undefined> {
    if (this.#progress !== undefined) yield this.#progress;
    if (this.#end !== undefined) return;
    const over = new AbortController();
    const stop = () => over.abort();
    for (const end of ENDS) this.once(end, stop);
    try {
      for await (const [progress] of on(this, "progress", { signal: over.signal })) yield progress as StreamProgress;
    } catch (error) {
      if (!over.signal.aborted) throw error;
      if (this.#progress !== undefined) yield this.#progress;
    } finally {
      for (const end of ENDS) this.off(end, stop);
    }
  }

  /**
   * Resolves when nothing is missing any more and the link is broken.
   *
   * @throws {StreamdiskError} the stream's error; `refused` when it ended at a base; `shutdown` when the disk is closed before, or its thread has died
   */
  async hydrated(): Promise<void> {
    if (this.#end === undefined) {
      await new Promise<void>((resolve) => {
        for (const end of ENDS) this.once(end, () => resolve());
      });
    }
    if (this.#end instanceof StreamdiskError) throw this.#end;
    if (this.#end !== "base-reached") return;
    const message = `The stream of '${this.image}' has ended at its base: the disk needs that as before`;
    throw new StreamdiskError("refused", message, { node: this.image });
  }

  info(): Promise<DiskInfo> {
    return this.#place.thread.call(this.#place.id, "info", undefined);
  }

  /** Who is connected, and what each has asked for and waited. */
  clients(): Promise<readonly NbdClient[]> {
    return this.#place.thread.call(this.#place.id, "clients", undefined);
  }

  /**
   * What the disk had to do, second by second, in order: of the last quarter of an hour of work. Seconds in which nothing happened are
   * left out.
   *
   * @param since only what came later, in milliseconds since 1970. @default all
   */
  load({ since = 0 }: { readonly since?: number } = {}): Promise<readonly LoadSample[]> {
    return this.#place.thread.call(this.#place.id, "load", { since });
  }

  /** What a reader of the disk sees, as `imageMap` has it. What changes meanwhile may be told as it was or as it is. */
  async *map(): AsyncGenerator<MapEntry, void, undefined> {
    for (let offset: number | undefined = 0; offset !== undefined; ) {
      const page: MapPage = await this.mapPage({ offset });
      yield* page.entries;
      offset = page.next;
    }
  }

  /**
   * A part of that, for whoever hands it on in parts.
   *
   * @param part in bytes, and in entries
   */
  mapPage({ offset = 0, limit = MAP_PAGE }: Partial<MapPart> = {}): Promise<MapPage> {
    return this.#place.thread.call(this.#place.id, "mapPage", { offset, limit });
  }

  /** The map in equal cells, for drawing. */
  cells(part: CellsPart): Promise<Cells> {
    return this.#place.thread.call(this.#place.id, "cells", part);
  }

  /** What goes on in it, now: nothing of what changes, which is for those who watch. */
  live(): Promise<DiskLive> {
    return this.#place.thread.call(this.#place.id, "live", undefined);
  }

  /**
   * What goes on in it, now and whenever something changes, at most four times a second; until the signal aborts or the disk is closed. A
   * reader that is slow is told less often, and that it was. It costs the disk something only while somebody watches.
   */
  async *watch(signal: AbortSignal): AsyncGenerator<DiskLive, void, undefined> {
    const { thread, id } = this.#place;
    const queue = new LiveQueue();
    const end = (): void => queue.end();
    if (signal.aborted) return;
    signal.addEventListener("abort", end);
    this.#watchers.add(queue);
    try {
      if (this.#watchers.size === 1) await thread.call(id, "watch", { on: true });
      yield await this.live();
      yield* queue.read();
    } finally {
      signal.removeEventListener("abort", end);
      this.#watchers.delete(queue);
      // There is nothing to say to one that is closed.
      if (this.#watchers.size === 0) await thread.call(id, "watch", { on: false }).catch(() => {});
    }
  }

  /**
   * Starts a stream, unless one runs. One with a `base` ends when nothing is missing above that (event `base-reached`).
   *
   * @throws {StreamdiskError} `invalid-argument` for a base that is no layer of the disk, `not-found` for a file that is not there
   */
  async stream(options: StreamSpec = {}): Promise<void> {
    if (this.#end !== "hydrated" && this.lost === undefined) this.#end = undefined;
    await this.#place.thread.call(this.#place.id, "stream", options);
  }

  /** Which layer a base of a stream is. @throws {StreamdiskError} as `stream`, and `source-lost` while what lies below is not known */
  base(named: string): Promise<BaseLayer> {
    return this.#place.thread.call(this.#place.id, "base", { named });
  }

  /** Fetches nothing more; what was fetched stays. */
  async cancelStream(): Promise<void> {
    try {
      await this.#place.thread.call(this.#place.id, "cancelStream", undefined);
    } catch (error) {
      // A thread that has died fetches nothing more either.
      if (this.lost === undefined) throw error;
    }
  }

  /** @param speed bytes a second; undefined for no limit */
  async setSpeed(speed: number | undefined): Promise<void> {
    await this.#place.thread.call(this.#place.id, "setSpeed", { speed });
  }

  /** One increment of a stream, while none runs: see `stepImage`. */
  step({ offset, length = 2 ** 20 }: { readonly offset?: number; readonly length?: number } = {}): Promise<StepResult> {
    const from = offset === undefined ? {} : { offset };
    return this.#place.thread.call(this.#place.id, "step", { ...from, length });
  }

  /**
   * Changes the virtual size, while no stream runs: see `resizeImage`. Clients that are connected see the old one until they connect
   * again.
   */
  async resize(length: number, { shrink = false }: { readonly shrink?: boolean } = {}): Promise<void> {
    await this.#place.thread.call(this.#place.id, "resize", { length, shrink });
  }

  /**
   * To be called before QEMU is told to stop, reset or end a machine, or to take a snapshot: it waits for the machine's requests first, and
   * answers nobody until then. Requests that wait for a lost source fail, and so do those that come until `release` is called:
   * with `rerror=stop,werror=stop` the machine pauses, and does them again when it goes on.
   */
  async failHeld(): Promise<void> {
    await this.#place.thread.call(this.#place.id, "failHeld", undefined);
  }

  /** The end of `failHeld`, to be called once for each. */
  async release(): Promise<void> {
    await this.#place.thread.call(this.#place.id, "release", undefined);
  }

  /** What becomes of requests that a dead source cannot answer, from now on. */
  async setPolicy(policy: SourcePolicy): Promise<void> {
    await this.#place.thread.call(this.#place.id, "setPolicy", policy);
  }

  /** What the disk tells. For `serveDisk` alone. */
  hear(event: DiskEvent): void {
    switch (event.type) {
      case "live":
        for (const queue of this.#watchers) queue.push(event.live);
        return;
      case "progress":
        this.#progress = event.progress;
        this.emit("progress", event.progress);
        return;
      case "source":
        this.emit("source", event.source);
        return;
      case "pause":
        this.emit("pause");
        return;
      case "hydrated":
        this.#end = "hydrated";
        this.emit("hydrated");
        return;
      case "base-reached":
        this.#end = "base-reached";
        this.emit("base-reached");
        return;
      case "stream-failed":
        this.#end = new StreamdiskError(event.code, event.message, { node: this.image });
        this.emit("stream-failed", this.#end);
        return;
      case "learned":
        this.emit("learned", event.known);
        return;
      case "lost": {
        const message = `'${this.image}' is not served any more. ${event.message}. What was acknowledged is kept: serve it again`;
        const error = new StreamdiskError("shutdown", message, { node: this.image });
        if (this.#end !== "hydrated") this.#end = error;
        this.#endWatches();
        this.emit("lost", error);
      }
    }
  }

  #endWatches(): void {
    for (const queue of this.#watchers) queue.end();
  }

  /** What is to be done when the disk is closed. For `serveDisk` alone. */
  onClose(act: () => Promise<void> | undefined): void {
    this.#cleanUp = act;
  }

  /**
   * Lets guests finish what is under way, makes everything durable, and ends the export. A stream can go on later. Of a disk that was
   * lost before there is nothing left to close.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { thread, id } = this.#place;
    try {
      if (this.lost === undefined) await thread.call(id, "close", undefined);
    } finally {
      await thread.leave(id);
      await this.#cleanUp();
      this.#end ??= new StreamdiskError("shutdown", `'${this.image}' is served no more`, { node: this.image });
      this.#endWatches();
      this.emit("closed");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** In QEMU's options a comma is written twice. */
