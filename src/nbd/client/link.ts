/**
 * A link to an export for as long as it is wanted, over whatever connections it takes.
 *
 * Requests go to the connection that has the least to do; a server that allows it gets more connections as load comes. When a
 * connection ends, what it had not answered goes to another one, or waits; every request can be sent twice without harm. The
 * request whose reply broke the protocol is not sent again, and no request outlives more than a few connections: it may be
 * what ends them.
 *
 * When the last connection has ended there is one attempt to connect at once. If that fails, or if the server was frozen,
 * the link is *lost*: what waits, and what comes, fails with `source-lost` once the loss has lasted for the user's patience.
 * The attempts go on, with longer and longer pauses, until the link is up again or closed. A server that comes back without
 * what was promised (size, abilities) is another one: that is final.
 *
 * A write that was in flight is sent again, and the next flush covers it; one that was answered and not flushed makes
 * flushes fail (see `UnflushedWrites`). What NBD can't exclude: a server that goes on with the requests of a connection that
 * has ended may carry such a write out late, after a newer one to the same place.
 */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND } from "../protocol.ts";
import { backoffMs } from "./backoff.ts";
import type { ConnectionEnd, ConnectionOwner, NbdConnection } from "./connection.ts";
import type { NbdExportInfo } from "./export-info.ts";
import { NbdRequest } from "./request.ts";
import { UnflushedWrites } from "./unflushed-writes.ts";
import { whatChanged } from "./what-changed.ts";

/** Told when the link is lost, with the reason, and when it is there again. */
export type LinkListener = (up: boolean, error?: Error) => void;

export interface LinkOptions {
  readonly node: string;
  readonly clock: Clock;
  /** Draws from [0, 1). */
  readonly random: () => number;
  /** How long a loss lasts before requests fail. */
  readonly patienceMs: number;
  readonly mostConnections: number;
  /** Makes a connection. */
  readonly connect: (owner: ConnectionOwner, signal: AbortSignal) => Promise<NbdConnection>;
}

/** Connections that a request may see end before it is given up. */
const MOST_BREAKS = 4;
/** Requests in flight on every connection that make another one worth while. */
const BUSY = 4;

export class NbdLink implements ConnectionOwner {
  readonly #options: LinkOptions;
  readonly #live: NbdConnection[] = [];
  /** Requests for which there is no connection at the moment. */
  readonly #waiting = new Set<NbdRequest>();
  readonly #listeners = new Set<LinkListener>();
  readonly #unflushed: UnflushedWrites;
  readonly #over = new AbortController();
  #promised: NbdExportInfo | undefined;
  #state: "up" | "connecting" | "lost" | "final" | "closed" = "connecting";
  /** Why it is lost or final. */
  #error: Error | undefined;
  /** Whether a loss has lasted for the user's patience. */
  #failing = false;
  /** Attempts that have failed since there was a reply. */
  #failures = 0;
  #growing = false;
  #losses = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#unflushed = new UnflushedWrites(options.node);
  }

  /**
   * Opens the first connection; tries again within the user's patience where that may help.
   *
   * @throws {StreamdiskError} why the last attempt failed
   */
  async open(): Promise<void> {
    const { clock, patienceMs } = this.#options;
    const began = clock.now();
    for (;;) {
      try {
        this.#join(await this.#connect());
        return;
      } catch (error) {
        const pause = this.#pause();
        const again =
          error instanceof StreamdiskError && error.row.retryable && clock.now() + pause <= began + patienceMs;
        if (!again) throw error;
        await clock.sleep(pause, this.#over.signal);
        this.#over.signal.throwIfAborted();
      }
    }
  }

  /** What the server has promised. */
  get info(): NbdExportInfo {
    return this.#promised!;
  }

  /** @returns how to stop it */
  onLink(listener: LinkListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Sends a request; its `answered` tells the outcome. */
  submit(request: NbdRequest): void {
    const connection = this.#leastBusy();
    if (connection !== undefined) {
      connection.send(request);
      if (connection.inFlight > BUSY) void this.#grow();
    } else if (this.#failing) {
      request.reject(this.#failure(request));
    } else {
      this.#waiting.add(request);
    }
  }

  /** Resolves when every write that was answered before the call is durable. */
  async flush(): Promise<void> {
    this.#unflushed.check();
    // A server without flushes has nothing to lose that it has answered for.
    if (!this.info.canFlush) return;
    const covered = this.#unflushed.beginFlush();
    const request = new NbdRequest(COMMAND.FLUSH, 0, 0);
    this.submit(request);
    try {
      await request.answered;
    } catch (error) {
      if (request.errorValue !== 0) this.#unflushed.noteFailedFlush(error as Error);
      this.#unflushed.check();
      throw error;
    }
    this.#unflushed.check();
    covered();
  }

  /** Waits for what is in flight, flushes if there is anything to flush, says goodbye. Nothing new may be submitted. */
  async close(): Promise<void> {
    if (this.#live.length === 0) this.abort();
    try {
      await Promise.all(this.#live.map((connection) => connection.idle()));
      if (this.#unflushed.any) await this.flush();
    } finally {
      this.abort();
      await Promise.all(this.#live.splice(0).map((connection) => connection.disconnect()));
    }
  }

  /** Gives up: no more attempts to connect, and what waits fails. */
  abort(reason?: unknown): void {
    this.#state = "closed";
    this.#over.abort(reason);
    this.#failWaiting();
  }

  answered(request: NbdRequest): void {
    this.#failures = 0;
    if (request.writes && request.errorValue === 0 && this.info.canFlush) this.#unflushed.noteWrite();
    request.settle(this.#options.node);
  }

  ended(connection: NbdConnection, end: ConnectionEnd): void {
    const index = this.#live.indexOf(connection);
    if (index < 0) return;
    this.#live.splice(index, 1);
    this.#unflushed.noteConnectionEnd(end.error);
    end.guilty?.reject(end.error);
    // One that ended without an answer may have ended by chance; the next such one counts.
    if (!connection.proved) this.#failures++;
    if (this.#live.length === 0 && this.#state === "up") void this.#reconnect(end);
    for (const request of end.unanswered) this.#sendAgain(request, end.error);
  }

  #sendAgain(request: NbdRequest, error: Error): void {
    if (request.abandoned) return;
    if (++request.breaks < MOST_BREAKS) {
      request.restart();
      this.submit(request);
      return;
    }
    const { node } = this.#options;
    const message = `${request} failed: ${request.breaks} connections to '${node}' ended meanwhile (${error.message})`;
    request.reject(new StreamdiskError("source-lost", message, request.context(node), error));
  }

  #leastBusy(): NbdConnection | undefined {
    let best = this.#live[0];
    for (let i = 1; i < this.#live.length; i++) if (this.#live[i]!.inFlight < best!.inFlight) best = this.#live[i];
    return best;
  }

  /** @throws {StreamdiskError} `changed`, and what connecting throws */
  async #connect(): Promise<NbdConnection> {
    const connection = await this.#options.connect(this, this.#over.signal);
    const change = this.#promised && whatChanged(this.#promised, connection.info);
    if (change === undefined) return connection;
    await connection.disconnect();
    const { node } = this.#options;
    const message = `'${node}' is not what it was: ${change}. Open it anew`;
    throw new StreamdiskError("changed", message, { node, operation: "connect" });
  }

  /** Begins to use a connection. */
  #join(connection: NbdConnection): void {
    connection.throwIfOver();
    if (this.#over.signal.aborted) void connection.disconnect();
    this.#over.signal.throwIfAborted();
    this.#promised ??= connection.info;
    const wasLost = this.#state === "lost";
    this.#live.push(connection);
    this.#state = "up";
    this.#failing = false;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const request of waiting) if (!request.abandoned) this.submit(request);
    if (wasLost) this.#tell(true);
  }

  async #grow(): Promise<void> {
    const { mostConnections } = this.#options;
    if (this.#growing || this.#live.length >= mostConnections || !this.info.canMultiConn) return;
    this.#growing = true;
    try {
      this.#join(await this.#connect());
    } catch {
      // Those that there are will do.
      await this.#options.clock.sleep(this.#pause(), this.#over.signal);
    }
    this.#growing = false;
  }

  async #reconnect(end: ConnectionEnd): Promise<void> {
    this.#state = "connecting";
    let pause = this.#failures < 2 ? 0 : backoffMs(this.#failures - 1, this.#options.random);
    if (end.frozen || pause > 0) this.#lose(end.error);
    for (;;) {
      if (pause > 0) await this.#options.clock.sleep(pause, this.#over.signal);
      if (this.#live.length > 0) return;
      try {
        this.#join(await this.#connect());
        return;
      } catch (error) {
        if (this.#over.signal.aborted || this.#live.length > 0) return;
        if (error instanceof StreamdiskError && error.code === "changed") {
          this.#finish(error);
          return;
        }
        this.#lose(error as Error);
        pause = this.#pause();
      }
    }
  }

  /** Counts a failed attempt. @returns how long to wait before the next one */
  #pause(): number {
    return backoffMs(++this.#failures, this.#options.random);
  }

  #lose(error: Error): void {
    this.#error = error;
    if (this.#state === "lost") return;
    this.#state = "lost";
    this.#tell(false, error);
    const { clock, patienceMs } = this.#options;
    if (patienceMs === 0) {
      this.#failWaiting();
      return;
    }
    const loss = ++this.#losses;
    void clock.sleep(patienceMs, this.#over.signal).then(() => {
      if (this.#state === "lost" && this.#losses === loss) this.#failWaiting();
    });
  }

  /** There is nothing to come back to. */
  #finish(error: StreamdiskError): void {
    this.#error = error;
    this.#state = "final";
    this.#failWaiting();
    this.#tell(false, error);
  }

  #failWaiting(): void {
    this.#failing = true;
    for (const request of this.#waiting) request.reject(this.#failure(request));
    this.#waiting.clear();
  }

  #failure(request: NbdRequest): StreamdiskError {
    const { node } = this.#options;
    if (this.#state === "closed") {
      return new StreamdiskError("shutdown", `${request} failed: '${node}' is closed`, request.context(node));
    }
    const code = this.#state === "final" ? "changed" : "source-lost";
    return new StreamdiskError(code, `${request} failed: ${this.#error?.message}`, request.context(node), this.#error);
  }

  #tell(up: boolean, error?: Error): void {
    for (const listener of this.#listeners) listener(up, error);
  }
}
