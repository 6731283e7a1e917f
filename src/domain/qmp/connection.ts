/**
 * One connection to a QMP monitor (docs/interop/qmp-spec.txt of QEMU): the greeting, the capabilities (none are asked for), then
 * commands with ids. Answers are matched by id, events may come between a command and its answer, and an answer that nobody
 * waits for any more (a time limit, a signal) is dropped.
 *
 * A monitor serves one client at a time: a second one connects and is never greeted, which the time limit tells. Whatever breaks
 * the protocol ends the connection; it ends once, and everything that waits fails with the reason.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { isObject, type JsonObject, JsonValue } from "./json-value.ts";
import { MessageSplitter } from "./message-splitter.ts";
import { readAnswer } from "./qmp-error.ts";
import {
  DEFAULT_TIMEOUT_MS,
  type QmpConnectOptions,
  type QmpLink,
  type QmpListener,
  type QmpTransport,
} from "./transport.ts";

interface Waiting {
  readonly command: string;
  resolve(value: JsonValue): void;
  reject(error: unknown): void;
}

/** Answers that are owed to nobody: beyond it QEMU has not answered for so long that the connection is of no use. */
const MOST_WAITING = 1000;

const ONE_AT_A_TIME =
  "it serves one client at a time, and another program may hold it. Give QEMU a QMP socket of its own for this";

/** @param path the monitor's Unix socket */
export function socketTransport(path: string): QmpTransport {
  return { name: path, open: (options, listener) => QmpConnection.open(path, options, listener) };
}

export class QmpConnection implements QmpLink {
  readonly #node: string;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #listener: QmpListener;
  readonly #splitter = new MessageSplitter();
  /** By id; undefined for a command whose caller has gone. */
  readonly #waiting = new Map<number, Waiting | undefined>();
  readonly #greeted = Promise.withResolvers<JsonValue>();
  #hasGreeted = false;
  #lastId = 0;
  #over: StreamdiskError | undefined;

  private constructor(node: string, socket: Socket, options: QmpConnectOptions, listener: QmpListener) {
    this.#node = node;
    this.#socket = socket;
    this.#clock = options.clock ?? systemClock;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#listener = listener;
    this.#greeted.promise.catch(() => {});
    socket.on("data", (bytes) => this.#received(bytes));
    socket.on("error", (error) => this.#end(this.#lost(error.message, error)));
    socket.on("close", () => this.#end(this.#lost("QEMU closed it")));
  }

  /**
   * Connects, and is ready for commands.
   *
   * @param path the monitor's Unix socket
   * @throws {StreamdiskError} `not-found`, `permission`, `shutdown` when nobody listens there; `in-use` when the monitor takes nobody
   *   more, or does not greet; `protocol`; or the signal's reason
   */
  static async open(path: string, options: QmpConnectOptions, listener: QmpListener): Promise<QmpConnection> {
    options.signal?.throwIfAborted();
    const socket = connect({ path });
    try {
      await once(socket, "connect", options.signal && { signal: options.signal });
    } catch (error) {
      socket.destroy();
      options.signal?.throwIfAborted();
      throw couldNotConnect(path, error as NodeJS.ErrnoException);
    }
    const connection = new QmpConnection(path, socket, options, listener);
    try {
      await connection.#greet(options.signal);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  get isOver(): boolean {
    return this.#over !== undefined;
  }

  async execute(command: string, args: JsonObject, signal?: AbortSignal): Promise<JsonValue> {
    signal?.throwIfAborted();
    if (this.#over !== undefined) throw this.#over;
    if (this.#waiting.size >= MOST_WAITING) throw this.#silent(command);
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<JsonValue>();
    this.#waiting.set(id, { command, resolve: answer.resolve, reject: answer.reject });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      return await this.#within(answer.promise, () => this.#silent(command), signal);
    } finally {
      if (this.#waiting.has(id)) this.#waiting.set(id, undefined);
    }
  }

  close(): void {
    this.#end(this.#lost("it was closed from this side"));
  }

  async #greet(signal: AbortSignal | undefined): Promise<void> {
    const busy = (): StreamdiskError => {
      const message = `The monitor at '${this.#node}' does not greet: ${ONE_AT_A_TIME}`;
      return new StreamdiskError("in-use", message, { node: this.#node, operation: "connect" });
    };
    await this.#within(this.#greeted.promise, busy, signal);
    await this.execute("qmp_capabilities", {}, signal);
  }

  /** What a promise resolves to, unless the time limit or the signal come first. */
  async #within<T>(promise: Promise<T>, late: () => StreamdiskError, signal: AbortSignal | undefined): Promise<T> {
    const done = new AbortController();
    const { promise: given, reject } = Promise.withResolvers<never>();
    const abort = (): void => reject(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    void this.#clock.sleep(this.#timeoutMs, done.signal).then(() => {
      if (!done.signal.aborted) reject(late());
    });
    try {
      return await Promise.race([promise, given]);
    } finally {
      signal?.removeEventListener("abort", abort);
      done.abort();
    }
  }

  #received(bytes: Buffer): void {
    try {
      for (const text of this.#splitter.feed(bytes)) {
        if (this.#over !== undefined) return;
        this.#take(JSON.parse(text));
      }
    } catch (error) {
      if (error instanceof StreamdiskError) this.#end(error);
      else this.#end(this.#violation((error as Error).message, error));
    }
  }

  #take(message: JsonObject): void {
    if (!this.#hasGreeted) {
      if (!isObject(message["QMP"])) throw this.#violation("no greeting");
      this.#hasGreeted = true;
      this.#greeted.resolve(new JsonValue(message["QMP"], "QMP"));
    } else if (typeof message["event"] === "string") {
      const name = message["event"];
      this.#listener.event({ name, data: new JsonValue(message["data"] ?? {}, name) });
    } else if ("return" in message || "error" in message) {
      this.#answered(message);
    } else {
      throw this.#violation("a message that is neither event nor answer");
    }
  }

  #answered(message: JsonObject): void {
    const { id } = message;
    if (typeof id !== "number" || !this.#waiting.has(id)) {
      throw this.#violation(`an answer to a command with the id ${JSON.stringify(id) ?? "(none)"}, which was not sent`);
    }
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (waiting === undefined) return;
    try {
      waiting.resolve(readAnswer(this.#node, waiting.command, message));
    } catch (error) {
      waiting.reject(error);
    }
  }

  #end(error: StreamdiskError): void {
    if (this.#over !== undefined) return;
    this.#over = error;
    this.#socket.destroy();
    this.#greeted.reject(error);
    for (const waiting of this.#waiting.values()) waiting?.reject(error);
    this.#waiting.clear();
    this.#listener.ended(error);
  }

  #silent(operation: string): StreamdiskError {
    const message =
      `QEMU at '${this.#node}' did not answer ${operation} within ${this.#timeoutMs / 1000} s. It may be waiting for a request ` +
      "of the guest that a source does not answer";
    return new StreamdiskError("io", message, { node: this.#node, operation });
  }

  #violation(what: string, cause?: unknown): StreamdiskError {
    const message = `The monitor at '${this.#node}' breaks QMP: it sent ${what}`;
    return new StreamdiskError("protocol", message, { node: this.#node }, cause);
  }

  #lost(why: string, cause?: unknown): StreamdiskError {
    const message = `The connection to QEMU's monitor at '${this.#node}' ended: ${why}`;
    return new StreamdiskError("shutdown", message, { node: this.#node }, cause);
  }
}

function couldNotConnect(path: string, error: NodeJS.ErrnoException): StreamdiskError {
  const context = { node: path, operation: "connect" };
  const say = (code: "not-found" | "permission" | "in-use" | "shutdown", why: string): StreamdiskError =>
    new StreamdiskError(code, `Could not connect to QEMU's monitor at '${path}': ${why}`, context, error);
  if (error.code === "ENOENT") return say("not-found", "there is no such socket");
  if (error.code === "EACCES" || error.code === "EPERM") return say("permission", "permission denied");
  // So many wait to be greeted that the kernel lets nobody more wait.
  if (error.code === "EAGAIN") return say("in-use", `it is busy, since ${ONE_AT_A_TIME}`);
  if (error.code === "ECONNREFUSED") return say("shutdown", "no QEMU listens there any more");
  return say("shutdown", error.message);
}
