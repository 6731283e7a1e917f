/**
 * A monitor for as long as it is wanted: connects when there is a command to run, and again after the connection has ended.
 *
 * A command that was under way when a connection ended fails and is not run again: QEMU may have done it. Who waits
 * for something to happen asks for the state and takes an event, or the end of a connection, for a reason to ask again (`change`):
 * so what happens while nobody is connected is not missed.
 */
import { type Clock, systemClock, whileWanted } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { QMP_COMMANDS, type QmpArguments, type QmpCommand, type QmpResult } from "./commands.ts";
import { socketTransport } from "./connection.ts";
import type { QmpConnectOptions, QmpEvent, QmpLink, QmpTransport } from "./transport.ts";

export type QmpClientOptions = Omit<QmpConnectOptions, "signal">;

export class QmpClient implements Disposable {
  /** What the monitor is called in messages: the path of its socket, or the domain of libvirt's. */
  readonly name: string;
  /** By which it waits. */
  readonly clock: Clock;
  readonly #transport: QmpTransport;
  readonly #options: QmpClientOptions;
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #watchers = new Set<() => void>();
  /** Its reason is what is said of a monitor that is not used any more. */
  readonly #closed = new AbortController();
  #connection: Promise<QmpLink> | undefined;
  #link: QmpLink | undefined;
  #shutdown: string | undefined;

  /** @param monitor path of its socket, or another way to it */
  constructor(monitor: string | QmpTransport, options: QmpClientOptions = {}) {
    this.#transport = typeof monitor === "string" ? socketTransport(monitor) : monitor;
    this.name = this.#transport.name;
    this.#options = options;
    this.clock = options.clock ?? systemClock;
  }

  /** Why QEMU said that it would end ("guest-shutdown", "host-qmp-quit", "host-signal"), if it did. */
  get shutdownReason(): string | undefined {
    return this.#shutdown;
  }

  /** Whether there is a connection at the moment. */
  get isConnected(): boolean {
    return this.#link !== undefined && !this.#link.isOver;
  }

  /**
   * Runs a command, over a new connection if there is none.
   *
   * @throws {StreamdiskError} what `QmpLink` throws: `refused` and the like for what QEMU refuses, `io` when it does not
   *   answer, `shutdown` when it has ended; `protocol` for an answer that is none
   */
  async execute<C extends QmpCommand>(
    command: C,
    args: QmpArguments<C>,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<QmpResult<C>> {
    const connection = await this.#connect(options.signal);
    const answer = await connection.execute(command, args, options.signal);
    return QMP_COMMANDS[command].read(answer) as QmpResult<C>;
  }

  /** @returns how to stop it */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Resolves with the next event, the end of the connection, the signal, or `ms` milliseconds, whichever comes first. */
  async change(ms: number, signal?: AbortSignal): Promise<void> {
    const over = new AbortController();
    const wake = (): void => over.abort();
    this.#watchers.add(wake);
    signal?.addEventListener("abort", wake, { once: true });
    if (signal?.aborted !== true) await this.clock.sleep(ms, over.signal);
    signal?.removeEventListener("abort", wake);
    this.#watchers.delete(wake);
  }

  /** Ends the connection, so that others get a turn; commands under way fail, and the next one connects again. */
  disconnect(): void {
    this.#connection?.then((connection) => connection.close()).catch(() => {});
  }

  /** Ends the connection for good. */
  [Symbol.dispose](): void {
    const message = `The monitor at '${this.name}' is not used any more`;
    this.#closed.abort(new StreamdiskError("shutdown", message, { node: this.name }));
    this.disconnect();
  }

  async #connect(signal: AbortSignal | undefined): Promise<QmpLink> {
    const current = this.#connection;
    const existing = await whileWanted(current?.catch(() => undefined) ?? Promise.resolve(undefined), signal);
    if (existing !== undefined && !existing.isOver) return existing;
    this.#closed.signal.throwIfAborted();
    // Whoever comes while one is being made takes that one: it is nobody's alone, and goes on when one of them leaves.
    if (this.#connection === current) this.#connection = this.#open();
    return whileWanted(this.#connection!, signal);
  }

  async #open(): Promise<QmpLink> {
    const options = { ...this.#options, signal: this.#closed.signal };
    const connection = await this.#transport.open(options, {
      event: (event) => this.#heard(event),
      ended: () => this.#wake(),
    });
    this.#shutdown = undefined;
    this.#link = connection;
    if (this.#closed.signal.aborted) connection.close();
    return connection;
  }

  #heard(event: QmpEvent): void {
    if (event.name === "SHUTDOWN")
      this.#shutdown = event.data.get("reason").optional((reason) => reason.string()) ?? "";
    for (const listener of this.#listeners) listener(event);
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#watchers) wake();
  }
}
