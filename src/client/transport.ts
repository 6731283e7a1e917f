/**
 * How requests get to a daemon: the client is given a function, so that it runs wherever there is one. Over a Unix socket it is
 * `unixTransport` of the package's main entry; over TCP, and in a browser, `fetchTransport`.
 */
import { StreamdiskError } from "../errors/index.ts";

export interface TransportRequest {
  readonly method: string;
  /** With its query; begins with "/". */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal;
}

export interface TransportResponse {
  readonly status: number;
  readonly body: ReadableStream<Uint8Array> | null;
}

/** @throws {StreamdiskError} `source-lost` when nobody answers; the signal's reason when it aborts */
export type Transport = (request: TransportRequest) => Promise<TransportResponse>;

export interface FetchTransportOptions {
  /** What the daemon takes over TCP. */
  readonly token?: string;
}

/**
 * Reaches a daemon by its URL.
 *
 * @example
 * const client = new DaemonClient(fetchTransport("https://images.lan:8443", { token }));
 */
export function fetchTransport(url: string, { token }: FetchTransportOptions = {}): Transport {
  return async ({ path, headers, ...request }) => {
    const all = { ...headers, ...(token !== undefined && { Authorization: `Bearer ${token}` }) };
    try {
      return await fetch(new URL(path, url), { ...request, headers: all, redirect: "error", credentials: "omit" });
    } catch (error) {
      request.signal?.throwIfAborted();
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      const said = cause instanceof Error ? cause.message : String(cause);
      throw new StreamdiskError("source-lost", `No daemon answers at '${url}': ${said}`, { node: url }, error);
    }
  };
}
