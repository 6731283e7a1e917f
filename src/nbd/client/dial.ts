/** From a URI to a connection that has been greeted, within a time limit. */
import type { ConnectionOptions } from "node:tls";
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type NbdUri, parseNbdUri, withoutUser } from "../uri.ts";
import { type Greeting, greet } from "./handshake.ts";
import { HandshakeChannel } from "./handshake-channel.ts";
import { type NbdSocket, openSocket } from "./socket.ts";
import { type ClientTlsFiles, clientTlsOptions } from "./tls-options.ts";

/** How to reach a server. */
export interface DialOptions extends ClientTlsFiles {
  /**
   * How long the server may take to open a connection, and how long it may be silent while a read or a write waits;
   * flushes and the like may take four times as long.
   *
   * @default 15000
   */
  readonly timeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
}

const DEFAULT_TIMEOUT_MS = 15_000;

/** A server that can be reached again and again. */
export class Dialler {
  readonly uri: NbdUri;
  /** What the server is called in messages. */
  readonly node: string;
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly #tls: ConnectionOptions | undefined;

  private constructor(uri: NbdUri, node: string, tls: ConnectionOptions | undefined, options: DialOptions) {
    this.uri = uri;
    this.node = node;
    this.#tls = tls;
    this.clock = options.clock ?? systemClock;
    this.timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /**
   * Reads what TLS needs, once.
   *
   * @throws {StreamdiskError} `invalid-argument`, `unsupported`, `not-found`, `permission`
   */
  static async prepare(text: string, options: DialOptions): Promise<Dialler> {
    const uri = parseNbdUri(text);
    const node = withoutUser(text);
    return new Dialler(uri, node, await clientTlsOptions(uri, node, options), options);
  }

  /**
   * Connects, greets, and negotiates on.
   *
   * @param negotiate what follows the greeting; the connection ends when it fails
   * @throws {StreamdiskError} `source-lost` when nobody answers in time, and what `openSocket`, `greet` and `negotiate` throw
   */
  async dial<T>(
    signal: AbortSignal,
    negotiate: (channel: HandshakeChannel, greeting: Greeting) => Promise<T>,
  ): Promise<{ readonly socket: NbdSocket; readonly result: T }> {
    const { node, uri } = this;
    const stop = new AbortController();
    const abort = () => stop.abort(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    const done = new AbortController();
    void this.clock.sleep(this.timeoutMs, done.signal).then(() => {
      if (done.signal.aborted) return;
      const message = `'${node}' did not open a connection within ${this.timeoutMs / 1000} s`;
      stop.abort(new StreamdiskError("source-lost", message, { node, operation: "connect" }));
    });
    let socket: NbdSocket | undefined;
    try {
      signal.throwIfAborted();
      socket = await openSocket({ node, address: uri, tls: uri.tls }, stop.signal);
      const reached = socket;
      stop.signal.addEventListener("abort", () => reached.fail(stop.signal.reason), { once: true });
      const channel = new HandshakeChannel(socket, node);
      const result = await negotiate(channel, await greet(channel, this.#tls));
      channel.finish();
      return { socket, result };
    } catch (error) {
      socket?.fail(error as Error);
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
      done.abort();
    }
  }
}
