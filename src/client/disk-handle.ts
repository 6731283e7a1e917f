import type {
  Cells,
  Disk,
  Event,
  Job,
  Live,
  LoadSample,
  MapRun,
  NbdClient,
  RouteInput,
  RouteResult,
} from "../api/index.ts";
import type { DaemonClient } from "./daemon-client.ts";
import type { FollowOptions, LineOptions } from "./event-follower.ts";

type StreamOptions = NonNullable<RouteInput<"startStream">["body"]>;
type StepOptions = NonNullable<RouteInput<"stepStream">["body"]>;
type ResizeOptions = RouteInput<"resizeDisk">["body"];
type CellsOptions = NonNullable<RouteInput<"diskCells">["query"]>;
type ReplaceOptions = RouteInput<"replaceSource">["body"];

/** A part of a map in cells: what there is of each, from 0 to 255 (all of it). */
export interface DiskCells extends Omit<Cells, "local" | "missing"> {
  readonly local: Uint8Array;
  readonly missing: Uint8Array;
}

/** A disk of a daemon, by its name. All amounts are bytes. All throw as `DaemonClient.call` does; `not-found` for one that is not there. */
export class DiskHandle {
  readonly name: string;
  readonly #client: DaemonClient;

  constructor(client: DaemonClient, name: string) {
    this.#client = client;
    this.name = name;
  }

  info(): Promise<Disk> {
    return this.#client.call("getDisk", { params: this.#params });
  }

  /** Starts a stream of the whole device. @throws {StreamdiskError} `in-use` when there is one */
  stream(options: StreamOptions = {}): Promise<Job> {
    return this.#client.call("startStream", { params: this.#params, body: options });
  }

  /** How the last stream is. */
  streamInfo(): Promise<Job> {
    return this.#client.call("streamInfo", { params: this.#params });
  }

  /** One increment; `next` is the offset to go on from. */
  step(options: StepOptions = {}): Promise<RouteResult<"stepStream">> {
    return this.#client.call("stepStream", { params: this.#params, body: options });
  }

  pause(): Promise<Job> {
    return this.#client.call("pauseStream", { params: this.#params });
  }

  resume(): Promise<Job> {
    return this.#client.call("resumeStream", { params: this.#params });
  }

  /** Ends the stream; what was fetched stays. */
  cancel(): Promise<Job> {
    return this.#client.call("cancelStream", { params: this.#params });
  }

  /** @param speed bytes a second; null for no limit */
  setSpeed(speed: number | null): Promise<Job> {
    return this.#client.call("setSpeed", { params: this.#params, body: { speed } });
  }

  /** Where each range comes from, in order. */
  async *map(): AsyncGenerator<MapRun, void, undefined> {
    for (let offset: number | undefined = 0; offset !== undefined; ) {
      const page: RouteResult<"diskMap"> = await this.#client.call("diskMap", {
        params: this.#params,
        query: { offset },
      });
      yield* page.runs;
      offset = page.next;
    }
  }

  /** Who is connected, what each has asked for, and how long it waited. */
  async clients(): Promise<NbdClient[]> {
    return (await this.#client.call("diskClients", { params: this.#params })).clients;
  }

  /**
   * What it had to do, second by second.
   *
   * @param since only what came later than that, in milliseconds since 1970. @default the last quarter of an hour of work
   */
  async load({ since }: { readonly since?: number } = {}): Promise<LoadSample[]> {
    const query = since === undefined ? {} : { since };
    return (await this.#client.call("diskLoad", { params: this.#params, query })).samples;
  }

  /** The same in equal cells, for drawing. */
  async cells(options: CellsOptions = {}): Promise<DiskCells> {
    const cells: Cells = await this.#client.call("diskCells", { params: this.#params, query: options });
    return { ...cells, local: bytesOf(cells.local), missing: bytesOf(cells.missing) };
  }

  resize(options: ResizeOptions): Promise<Disk> {
    return this.#client.call("resizeDisk", { params: this.#params, body: options });
  }

  replaceSource(options: ReplaceOptions): Promise<Disk> {
    return this.#client.call("replaceSource", { params: this.#params, body: options });
  }

  /** Serves it no more. @param deleteFile whether its file goes too, if the daemon made it */
  delete({ deleteFile = false }: { readonly deleteFile?: boolean } = {}): Promise<void> {
    return this.#client.call("deleteDisk", { params: this.#params, query: { deleteFile } });
  }

  /** What happens to it, as `DaemonClient.watch`. */
  watch(options: FollowOptions = {}): AsyncGenerator<Event, void, undefined> {
    return this.#client.watch(options, this.name);
  }

  /** What goes on in it, as `DaemonClient.live`. */
  live(options: LineOptions = {}): AsyncGenerator<Live, void, undefined> {
    return this.#client.live(this.name, options);
  }

  get #params(): { readonly disk: string } {
    return { disk: this.name };
  }
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
