/**
 * One disk, as the page draws it: its map, what goes on in it, what it had to do. The map is asked for once a view and kept up to date by what
 * the daemon tells; it is asked for again only when that says that it was not exact.
 */
import { computed, signal } from "@preact/signals";
import type { Disk, DiskCells, DiskHandle, Live, LoadSample, RouteResult } from "../../src/client/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { CellModel } from "../map/cell-model.ts";
import { cellsFor, type View, whole } from "../map/view.ts";
import { daemonClient } from "../session.ts";
import { whileInView } from "./in-view.ts";

export type NbdClient = RouteResult<"diskClients">["clients"][number];

/** Cells of the picture of the whole disk, by which the figures go too. */
const OVERVIEW = 1024;
/** Messages that are kept for maps that were asked for before they came: some 16 seconds. */
const MOST_RECENT = 64;
/** What was written since the page came, for when the view changes: offset and length, one after the other. */
const MOST_WRITTEN = 8192;
const LOOK_MS = 1000;
const ASK_AGAIN_MS = 1500;
/** Seconds of load that are shown. */
export const LOAD_SECONDS = 120;

export class WatchedDisk {
  readonly name: string;
  readonly disk = signal<Disk | undefined>(undefined);
  /** Why there is none. */
  readonly error = signal<string | undefined>(undefined);
  readonly live = signal<Live | undefined>(undefined);
  readonly samples = signal<readonly LoadSample[]>([]);
  readonly clients = signal<readonly NbdClient[]>([]);
  readonly overview = signal<CellModel | undefined>(undefined);
  readonly detail = signal<CellModel | undefined>(undefined);
  readonly view = signal<View | undefined>(undefined);
  /** Changes with each change inside the models. */
  readonly version = signal(0);
  readonly total = computed(() => {
    this.version.value;
    return this.overview.value?.total();
  });
  readonly #handle: DiskHandle;
  readonly #signal: AbortSignal;
  #room = OVERVIEW;
  #written: number[] = [];
  /** The last messages, and how many there were before them. */
  readonly #recent: Live[] = [];
  #before = 0;
  #askedAt = 0;
  #askings = 0;

  constructor(name: string, signal: AbortSignal) {
    this.name = name;
    this.#signal = signal;
    this.#handle = daemonClient().disk(name);
  }

  /** Watches while the page is in view, until the signal aborts. */
  async run(): Promise<void> {
    void this.#look();
    await whileInView(this.#signal, (signal) => this.#follow(signal));
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const options = { signal, onOpen: () => void this.#begin().catch(() => {}) };
    try {
      for await (const live of this.#handle.live(options)) this.#take(live);
    } catch (error) {
      if (!signal.aborted) this.error.value = error instanceof Error ? error.message : String(error);
    }
  }

  /** The line is there: how is the disk now? */
  async #begin(): Promise<void> {
    this.error.value = undefined;
    await this.refresh();
    await this.#askForCells();
  }

  async refresh(): Promise<void> {
    const before = this.disk.value?.length;
    const disk = await this.#handle.info();
    this.disk.value = disk;
    if (disk.length !== undefined && disk.length !== before) this.view.value = whole(disk.length);
  }

  #take(live: Live): void {
    const { stream } = this.live.value ?? {};
    this.live.value = live;
    this.#written = [...this.#written, ...live.written].slice(-MOST_WRITTEN);
    this.#recent.push(live);
    if (this.#recent.length > MOST_RECENT && this.#recent.shift() !== undefined) this.#before++;
    for (const model of [this.overview.value, this.detail.value]) model?.apply(live);
    this.version.value++;
    const hasEnded = stream !== undefined && live.stream === undefined;
    if (hasEnded) void this.#begin().catch(() => {});
    else if (this.#isStale && performance.now() - this.#askedAt > ASK_AGAIN_MS)
      void this.#askForCells().catch(() => {});
  }

  get #isStale(): boolean {
    return this.overview.value?.stale === true || this.detail.value?.stale === true;
  }

  /** @param room how many cells there is room for */
  setRoom(room: number): void {
    if (room === this.#room) return;
    this.#room = room;
    void this.#askForDetail().catch(() => {});
  }

  get room(): number {
    return this.#room;
  }

  show(view: View): void {
    this.view.value = view;
    void this.#askForDetail().catch(() => {});
  }

  async #askForCells(): Promise<void> {
    const { length } = this.disk.value ?? {};
    if (length === undefined) return;
    this.#askedAt = performance.now();
    const seen = this.#seen;
    const cells = await this.#handle.cells({ count: OVERVIEW });
    this.overview.value = this.#modelOf(cells, length, seen);
    await this.#askForDetail();
  }

  async #askForDetail(): Promise<void> {
    const { length } = this.disk.value ?? {};
    const view = this.view.value;
    if (length === undefined || length === 0 || view === undefined) return;
    const asking = ++this.#askings;
    const count = cellsFor(view, this.#room);
    const seen = this.#seen;
    const cells = await this.#handle.cells({ offset: view.start, length: Math.max(1, view.length), count });
    // The view may be another by now.
    if (asking === this.#askings) this.detail.value = this.#modelOf(cells, length, seen);
  }

  /** How many messages have come. */
  get #seen(): number {
    return this.#before + this.#recent.length;
  }

  /** @param seen how many messages had come when it was asked for: what was told since then is not in it for sure */
  #modelOf(cells: DiskCells, length: number, seen: number): CellModel {
    const model = new CellModel(cells, length);
    model.markWritten(this.#written);
    const live = this.live.value;
    if (live !== undefined) model.apply({ ...live, fetched: [], read: [], written: [], zeroed: [], inexact: false });
    for (const message of this.#recent.slice(Math.max(0, seen - this.#before))) model.apply(message);
    return model;
  }

  /** What is not told: it is looked at once a second, while somebody can see it. */
  async #look(): Promise<void> {
    while (!this.#signal.aborted) {
      try {
        if (!document.hidden) await this.#lookOnce();
      } catch (error) {
        // A line that is lost is told of elsewhere.
        if (!(error instanceof StreamdiskError)) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  async #lookOnce(): Promise<void> {
    const since = this.samples.value.at(-1)?.at ?? Date.now() - LOAD_SECONDS * 1000;
    const [more, clients] = await Promise.all([this.#handle.load({ since }), this.#handle.clients(), this.refresh()]);
    const oldest = Date.now() - LOAD_SECONDS * 1000;
    const wasSetBack = (more[0]?.at ?? since + 1) <= since;
    this.samples.value = [...(wasSetBack ? [] : this.samples.value), ...more].filter(({ at }) => at > oldest);
    this.clients.value = clients;
    if (this.#isStale && performance.now() - this.#askedAt > ASK_AGAIN_MS) await this.#askForCells();
  }
}
