/**
 * A typed client of a daemon. Paths, inputs and results come from the table of routes, so there is nothing here that could
 * disagree with the daemon of the same version. Runs in a browser too: how requests get there is passed in.
 */
import {
  type Event,
  type Live,
  ROUTES,
  type RouteInput,
  type RouteName,
  type RouteParts,
  type RouteResult,
} from "../api/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { DiskHandle } from "./disk-handle.ts";
import { type FollowOptions, followEvents, followLive, type LineOptions } from "./event-follower.ts";
import { problemError } from "./problem-error.ts";
import type { Transport } from "./transport.ts";

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Of a POST: the same key with the same input acts once within an hour, and gets the same answer. */
  readonly idempotencyKey?: string;
}

/**
 * A daemon.
 *
 * @example
 * const client = new DaemonClient(unixTransport("/var/lib/streamdisk/daemon.sock"));
 * const disk = client.disk("vm1-root");
 * await disk.stream({ speed: 100 * 2 ** 20 });
 * for await (const event of disk.watch()) console.log(event.message);
 */
export class DaemonClient {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Makes one call of the API.
   *
   * @throws {StreamdiskError} with the code that the daemon gives; `source-lost` when there is none, `protocol` when what answers is
   *   none
   */
  async call<N extends RouteName>(
    name: N,
    input: RouteInput<N>,
    { signal, idempotencyKey }: CallOptions = {},
  ): Promise<RouteResult<N>> {
    const route: RouteParts = ROUTES[name];
    const { params = {}, query = {}, body = {} }: Parts = input;
    const sent = route.body === undefined ? undefined : JSON.stringify(body);
    const response = await this.#transport({
      method: route.method,
      path: pathOf(route.path, params, query),
      headers: {
        Accept: "application/json",
        ...(sent !== undefined && { "Content-Type": "application/json" }),
        ...(idempotencyKey !== undefined && { "Idempotency-Key": idempotencyKey }),
      },
      ...(sent !== undefined && { body: sent }),
      ...(signal !== undefined && { signal }),
    });
    const text = await this.#textOf(response.body, signal);
    if (response.status !== route.status) throw problemError(response.status, text);
    if (text === "") return undefined as RouteResult<N>;
    try {
      return JSON.parse(text) as RouteResult<N>;
    } catch (error) {
      throw new StreamdiskError("protocol", `The daemon's answer to '${name}' is not JSON`, {}, error);
    }
  }

  async #textOf(body: ReadableStream<Uint8Array> | null, signal: AbortSignal | undefined): Promise<string> {
    try {
      return await new Response(body).text();
    } catch (error) {
      signal?.throwIfAborted();
      throw new StreamdiskError("source-lost", "The daemon went away in the middle of its answer", {}, error);
    }
  }

  /** One disk, whether it is there or not. */
  disk(name: string): DiskHandle {
    return new DiskHandle(this, name);
  }

  /**
   * What happens, as it happens; goes on by itself over restarts of the daemon, and ends when the signal aborts.
   *
   * @param disk only what happens to one disk
   * @throws {StreamdiskError} when the daemon refuses
   */
  watch(options: FollowOptions = {}, disk?: string): AsyncGenerator<Event, void, undefined> {
    return followEvents(this.#transport, disk, options);
  }

  /** What goes on in a disk, for whoever draws it: as `watch`, and each line begins with how it is then. */
  live(disk: string, options: LineOptions = {}): AsyncGenerator<Live, void, undefined> {
    return followLive(this.#transport, disk, options);
  }
}

interface Parts {
  readonly params?: object;
  readonly query?: object;
  readonly body?: unknown;
}

function pathOf(path: string, params: object, query: object): string {
  const values: Readonly<Record<string, unknown>> = { ...params };
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(String(values[name] ?? "")));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) search.append(name, String(value));
  return search.size === 0 ? filled : `${filled}?${search}`;
}
