/**
 * An NBD server: one address, any number of exports.
 *
 * All connections of a server live in the thread that called `serveNbd`, and share one pool of slabs and one bound on memory.
 */
import { createServer, type Server } from "node:net";
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError, wrapSystemError } from "../../errors/index.ts";
import { listenUnix, type UnixListen } from "../../host/index.ts";
import { formatNbdUri, type NbdAddress } from "../uri.ts";
import { BufferPool } from "./buffer-pool.ts";
import { Connection, type ConnectionContext, type NbdClient } from "./connection.ts";
import { ExportTable, type NbdExport } from "./exports.ts";
import { SlabPool } from "./outbox.ts";
import { SharedRoom } from "./room.ts";
import { type NbdServerTls, serverTlsOptions } from "./server-tls.ts";
import { Traffic } from "./traffic.ts";

export interface TcpListen {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
}

export interface ServeNbdOptions {
  readonly listen: UnixListen | TcpListen;
  /** More can be added later. @default none */
  readonly exports?: readonly NbdExport[];
  /** Given, no client is served without it. */
  readonly tls?: NbdServerTls;
  /** Told of each request that is refused or fails, and of each client that is turned away. */
  readonly onError?: (error: StreamdiskError) => void;
  readonly clock?: Clock;
}

export interface CloseOptions {
  /** How long requests under way may take before they are answered with an error. @default 10000 */
  readonly drainMs?: number;
}

/** More than that are cut off at once. */
const MOST_CONNECTIONS = 1024;
const BACKLOG = 256;
const DRAIN_MS = 10_000;
/** A client that has closed its side may still be owed replies. */
const LISTENING = { noDelay: true, keepAlive: true, pauseOnConnect: true, allowHalfOpen: true };

/**
 * Serves nodes over NBD until `close`.
 *
 * @throws {StreamdiskError} `in-use` for an address where somebody listens, `exists` for a path that is no socket,
 *   `permission`, `invalid-argument`, and as reading the files for TLS says
 *
 * @example
 * await using server = await serveNbd({
 *   listen: { path: "/run/vm1.sock" },
 *   exports: [{ name: "", node, readOnly: false }],
 * });
 */
export async function serveNbd(options: ServeNbdOptions): Promise<NbdServer> {
  const { clock = systemClock, onError } = options;
  const exports = new ExportTable(options.exports ?? []);
  const connections = new Set<Connection>();
  const departed = new Traffic();
  const context: ConnectionContext = {
    exports,
    tls: options.tls && (await serverTlsOptions(options.tls)),
    memory: { slabs: new SlabPool(), buffers: new BufferPool() },
    shared: new SharedRoom(),
    clock,
    refusal: (served) => {
      const most = served.maxConnections ?? MOST_CONNECTIONS;
      const count = [...connections].filter((connection) => connection.served === served).length;
      return count < most ? undefined : `Export '${served.name}' takes ${most} connections at a time`;
    },
    onError: (error) => onError?.(asStreamdiskError(error)),
  };
  const listener = createServer(LISTENING, (socket) => {
    const connection = new Connection(socket, context);
    connections.add(connection);
    void connection.closed.then(() => {
      connections.delete(connection);
      departed.add(connection.traffic);
    });
  });
  listener.maxConnections = MOST_CONNECTIONS;
  const { listen } = options;
  const unlisten = "path" in listen ? await listenUnix(listener, listen) : await listenTcp(listener, listen);
  // A connection that could not be accepted (no descriptors left) is its client's trouble.
  listener.on("error", context.onError);
  return new NbdServer({ listener, unlisten, context, connections, departed, address: addressOf(listener, listen) });
}

interface ServerParts {
  readonly listener: Server;
  /** Takes the address's name away. */
  readonly unlisten: () => Promise<void>;
  readonly context: ConnectionContext;
  readonly connections: ReadonlySet<Connection>;
  /** Of the clients that have gone. */
  readonly departed: Traffic;
  readonly address: NbdAddress;
}

/** Made by {@link serveNbd}. */
export class NbdServer implements AsyncDisposable {
  readonly #parts: ServerParts;
  #closing: Promise<void> | undefined;

  constructor(parts: ServerParts) {
    this.#parts = parts;
  }

  /** Where it listens. */
  get address(): NbdAddress {
    return this.#parts.address;
  }

  /** Of its first export, or of the default one when it has none. */
  get uri(): string {
    const [first] = this.#parts.context.exports;
    return this.uriOf(first?.name ?? "");
  }

  uriOf(exportName: string): string {
    return formatNbdUri({ ...this.#parts.address, tls: this.#parts.context.tls !== undefined, exportName });
  }

  /** How many clients' connections have an export. */
  get connections(): number {
    return this.#clients().length;
  }

  /** Those clients, in the order in which they came, and what each has had. */
  clients(): NbdClient[] {
    return this.#clients().map((connection) => connection.client());
  }

  /** Requests that have been answered so far, also of clients that have gone. */
  get requests(): number {
    let requests = this.#parts.departed.requests;
    for (const { traffic } of this.#parts.connections) requests += traffic.requests;
    return requests;
  }

  /** What all clients have had so far, also those that have gone. */
  traffic(): Traffic {
    const all = new Traffic();
    all.add(this.#parts.departed);
    for (const { traffic } of this.#parts.connections) all.add(traffic);
    return all;
  }

  #clients(exportName?: string): Connection[] {
    const all = [...this.#parts.connections].filter(({ served }) => served !== undefined);
    return exportName === undefined ? all : all.filter(({ served }) => served?.name === exportName);
  }

  /** @throws {StreamdiskError} `exists`, `invalid-argument` */
  addExport(added: NbdExport): void {
    this.#parts.context.exports.add(added);
  }

  /**
   * Takes an export away. Resolves when it has no clients any more, so that its node can be closed; nothing happens when there is
   * none of that name.
   */
  async removeExport(name: string, options: CloseOptions = {}): Promise<void> {
    if (this.#parts.context.exports.delete(name)) await this.#drain(this.#clients(name), options);
  }

  /** Takes no clients any more, answers what is under way, and ends all connections. A second call waits for the first. */
  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  async #close(options: CloseOptions): Promise<void> {
    const { listener, unlisten, connections } = this.#parts;
    await unlisten();
    const closed = new Promise<void>((resolve) => listener.close(() => resolve()));
    await this.#drain([...connections], options);
    await closed;
  }

  async #drain(leaving: readonly Connection[], { drainMs = DRAIN_MS }: CloseOptions): Promise<void> {
    const gone = Promise.all(leaving.map(({ closed }) => closed));
    const drained = new AbortController();
    void gone.then(() => drained.abort());
    for (const connection of leaving) connection.close();
    await this.#parts.context.clock.sleep(drainMs, drained.signal);
    for (const connection of leaving) connection.giveUp();
    await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function listenTcp(listener: Server, { host, port }: TcpListen): Promise<() => Promise<void>> {
  return new Promise((resolve, reject) => {
    listener.once("error", (error: NodeJS.ErrnoException) => {
      const name = `${host}:${port}`;
      const message = `Another server listens at '${name}'`;
      const taken = error.code === "EADDRINUSE";
      reject(
        taken
          ? new StreamdiskError("in-use", message, { node: name, operation: "listen" }, error)
          : wrapSystemError(error, name, "listen at", { operation: "listen" }),
      );
    });
    listener.listen({ host, port, backlog: BACKLOG }, () => {
      listener.removeAllListeners("error");
      resolve(async () => {});
    });
  });
}

function addressOf(listener: Server, listen: UnixListen | TcpListen): NbdAddress {
  if ("path" in listen) return { unix: true, socket: listen.path };
  const bound = listener.address();
  return {
    unix: false,
    host: listen.host,
    port: bound !== null && typeof bound === "object" ? bound.port : listen.port,
  };
}

function asStreamdiskError(error: unknown): StreamdiskError {
  if (error instanceof StreamdiskError) return error;
  return new StreamdiskError("io", error instanceof Error ? error.message : String(error), {}, error);
}
