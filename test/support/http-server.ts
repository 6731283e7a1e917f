/** A small HTTP server that answers range requests from a file, as object stores do. */
import { createReadStream, readFileSync, statSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export interface RangeServer extends AsyncDisposable {
  /** `http://127.0.0.1:PORT`, or https. */
  readonly origin: string;
  /** Requests answered so far. */
  readonly requests: () => number;
  /** Bytes of files that were sent so far. */
  readonly bytes: () => number;
}

/**
 * Serves files by their absolute path. Only a query of `token=TOKEN` opens them.
 *
 * @param token what every request must carry
 * @param delayMs how far away it is
 * @param certificates directory with `server-cert.pem` and `server-key.pem`: it speaks TLS
 * @param etag the version of all that it has
 */
export async function serveRanges(
  token: string,
  delayMs = 0,
  certificates?: string,
  etag = '"1"',
): Promise<RangeServer> {
  let requests = 0;
  let bytes = 0;
  const answer: RequestListener = async (request, reply) => {
    requests++;
    if (delayMs > 0) await sleep(delayMs);
    const url = new URL(request.url ?? "", "http://localhost");
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (url.searchParams.get("token") !== token) return reply.writeHead(403).end();
    const size = statSync(url.pathname, { throwIfNoEntry: false })?.size;
    if (size === undefined) return reply.writeHead(404).end();
    if (request.method !== "GET" || range === null || Number(range[1]) >= size) return reply.writeHead(416).end();
    const start = Number(range[1]);
    const end = Math.min(Number(range[2]), size - 1);
    bytes += end - start + 1;
    reply.writeHead(206, {
      etag,
      "content-range": `bytes ${start}-${end}/${size}`,
      "content-length": end - start + 1,
    });
    return createReadStream(url.pathname, { start, end }).pipe(reply);
  };
  const pem = (name: string) => readFileSync(join(certificates ?? "", name));
  const server =
    certificates === undefined
      ? createServer(answer)
      : createTlsServer({ cert: pem("server-cert.pem"), key: pem("server-key.pem") }, answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http${certificates === undefined ? "" : "s"}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: () => requests,
    bytes: () => bytes,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
