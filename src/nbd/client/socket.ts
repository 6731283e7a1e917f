/**
 * A connection as bytes: TCP or a Unix socket, plain or, from `startTls` on, encrypted.
 *
 * Bytes are handed to one listener as they come, in a buffer that is used again: it must take what it needs before it
 * returns. Whatever ends the connection is told once, and a listener that comes later is told at once.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { StreamdiskError } from "../../errors/index.ts";
import type { NbdAddress } from "../uri.ts";

/** Bytes taken from the kernel at a time: large reads gain, and idle connections are few. */
const RECEIVE_BUFFER = 256 * 1024;
const KEEP_ALIVE_MS = 10_000;
/** How long the peer may take to close its side. */
const CLOSE_MS = 1000;

export interface SocketListener {
  /** @param bytes valid during the call */
  received(bytes: Buffer): void;
  /** The connection has ended. */
  broken(error: Error): void;
}

/** What a caller of {@link openSocket} knows of the server. */
export interface SocketTarget {
  /** What the server is called in messages. */
  readonly node: string;
  readonly address: NbdAddress;
  /** Whether TLS will be started: then bytes can't be taken into a buffer of ours. */
  readonly tls: boolean;
}

/**
 * Connects.
 *
 * @throws {StreamdiskError} `source-lost` when nobody answers, `permission`; the reason of an aborted signal
 */
export async function openSocket(target: SocketTarget, signal: AbortSignal): Promise<NbdSocket> {
  signal.throwIfAborted();
  const { address } = target;
  const socket = new NbdSocket(target.node);
  const onread = {
    buffer: Buffer.allocUnsafeSlow(target.tls ? 0 : RECEIVE_BUFFER),
    callback: (count: number, buffer: Uint8Array) => {
      socket.receive(buffer.subarray(0, count) as Buffer);
      return true;
    },
  };
  const where = address.unix ? { path: address.socket } : { host: address.host, port: address.port };
  const raw = connect(target.tls ? where : { ...where, onread });
  raw.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
  const abort = () => raw.destroy(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    await once(raw, "connect");
  } catch (error) {
    throw signal.aborted ? signal.reason : couldNotConnect(target.node, error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
  socket.attach(raw);
  return socket;
}

export class NbdSocket {
  readonly #node: string;
  #socket: Socket | undefined;
  #listener: SocketListener | undefined;
  #brokenBy: Error | undefined;
  readonly #onError = (error: Error): void => this.fail(this.#lost(reasonOf(error), error));
  readonly #onEnd = (): void => this.fail(this.#lost("the server closed it"));
  readonly #onData = (bytes: Buffer): void => this.receive(bytes);

  /** Made by {@link openSocket}. */
  constructor(node: string) {
    this.#node = node;
  }

  /** Takes a stream as what it sends and receives by. */
  attach(socket: Socket): void {
    this.#socket = socket;
    socket.on("error", this.#onError).on("end", this.#onEnd).on("close", this.#onEnd).on("data", this.#onData);
  }

  receive(bytes: Buffer): void {
    if (this.#brokenBy === undefined) this.#listener?.received(bytes);
  }

  listen(listener: SocketListener): void {
    this.#listener = listener;
    if (this.#brokenBy !== undefined) listener.broken(this.#brokenBy);
  }

  /** Sends the pieces in one go. They must stay as they are until the peer has answered. */
  send(pieces: readonly Uint8Array[]): void {
    const socket = this.#socket;
    if (this.#brokenBy !== undefined || socket === undefined) return;
    socket.cork();
    for (const piece of pieces) socket.write(piece);
    socket.uncork();
  }

  /**
   * Encrypts the connection. All that was received must have been taken.
   *
   * @throws {StreamdiskError} `refused` when the peer is not who it should be, or does not accept who we are
   */
  async startTls(options: ConnectionOptions): Promise<void> {
    const plain = this.#socket!;
    plain.off("end", this.#onEnd).off("close", this.#onEnd).off("data", this.#onData).off("error", this.#onError);
    plain.on("error", () => {});
    const secure = connectTls({ ...options, socket: plain });
    this.#socket = secure;
    const closed = new AbortController();
    secure.once("close", () => closed.abort());
    try {
      await once(secure, "secureConnect", { signal: closed.signal });
    } catch (error) {
      secure.destroy();
      throw (
        this.#brokenBy ??
        this.#noTls(closed.signal.aborted ? "the server closed the connection" : reasonOf(error), error)
      );
    }
    this.attach(secure);
  }

  /** Ends the connection after what was sent, with the peer's agreement if that comes soon. */
  async end(): Promise<void> {
    const socket = this.#socket;
    this.#brokenBy ??= this.#lost("it was closed from this side");
    if (socket === undefined || socket.destroyed) return;
    const timer = setTimeout(() => socket.destroy(), CLOSE_MS);
    socket.end();
    await once(socket, "close").catch(() => {});
    clearTimeout(timer);
  }

  /** Ends the connection now, and tells the listener why unless it has ended before. */
  fail(error: Error): void {
    if (this.#brokenBy !== undefined) return;
    this.#brokenBy = error;
    this.#socket?.destroy();
    this.#listener?.broken(error);
  }

  #lost(why: string, cause?: Error): StreamdiskError {
    const message = `The connection to '${this.#node}' ended: ${why}`;
    return new StreamdiskError("source-lost", message, { node: this.#node }, cause);
  }

  #noTls(why: string, cause: unknown): StreamdiskError {
    const message = `TLS with '${this.#node}' failed: ${why}`;
    return new StreamdiskError("refused", message, { node: this.#node, operation: "connect" }, cause);
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there (ECONNREFUSED)",
  ECONNRESET: "the server reset it (ECONNRESET)",
  EPIPE: "the server closed it (EPIPE)",
  ENOENT: "there is no such socket (ENOENT)",
  ENOTFOUND: "there is no host of that name (ENOTFOUND)",
};

function reasonOf(error: unknown): string {
  if (error instanceof StreamdiskError) return error.message;
  const code = (error as NodeJS.ErrnoException).code;
  if (code !== undefined && REASONS[code] !== undefined) return REASONS[code];
  const text = error instanceof Error ? error.message : String(error);
  return text === "" ? (code ?? "for a reason unknown") : text;
}

function couldNotConnect(node: string, error: unknown): StreamdiskError {
  const code = (error as NodeJS.ErrnoException).code;
  const denied = code === "EACCES" || code === "EPERM";
  const message = `Could not connect to '${node}': ${denied ? "permission denied" : reasonOf(error)}`;
  return new StreamdiskError(denied ? "permission" : "source-lost", message, { node, operation: "connect" }, error);
}
