/**
 * HTTP over a Unix socket, which `fetch` of Node.js can't do. Node's part of it is loaded with the first request: it would be a fifth of
 * the start of commands that speak to no daemon.
 */
import { StreamdiskError } from "../errors/index.ts";

export interface UnixHttpRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal;
}

export interface UnixHttpResponse {
  readonly status: number;
  readonly body: ReadableStream<Uint8Array>;
}

/**
 * Reaches a daemon by its socket: what `DaemonClient` takes.
 *
 * @param socket path of the daemon's socket
 * @returns a function that makes a request, and throws `source-lost` when nobody answers, `permission`, or the signal's reason
 */
export function unixTransport(socket: string): (request: UnixHttpRequest) => Promise<UnixHttpResponse> {
  return async ({ method, path, headers, body, signal }) => {
    const [{ request }, { Readable }] = await Promise.all([import("node:http"), import("node:stream")]);
    return new Promise((resolve, reject) => {
      const options = { socketPath: socket, method, path, headers: { Host: "localhost", ...headers } };
      // One connection a request: the next daemon at the socket is found by itself, and a program ends when it has its answer.
      const sent = request({ ...options, agent: false, ...(signal !== undefined && { signal }) }, (response) => {
        resolve({ status: response.statusCode ?? 0, body: Readable.toWeb(response) as ReadableStream<Uint8Array> });
      });
      sent.once("error", (error: NodeJS.ErrnoException) => {
        reject(signal?.aborted ? signal.reason : unreachable(error, socket));
      });
      sent.end(body);
    });
  };
}

function unreachable(error: NodeJS.ErrnoException, socket: string): StreamdiskError {
  const context = { node: socket, operation: "connect" };
  if (error.code === "EACCES" || error.code === "EPERM") {
    const message = `The daemon's socket '${socket}' is another user's: it has to be opened with this user's rights`;
    return new StreamdiskError("permission", message, context, error);
  }
  const absent = error.code === "ENOENT" || error.code === "ECONNREFUSED";
  const message = absent
    ? `No daemon listens at '${socket}': start one with 'streamdisk daemon'`
    : `The daemon at '${socket}' does not answer: ${error.message}`;
  return new StreamdiskError("source-lost", message, context, error);
}
