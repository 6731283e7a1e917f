/** The demo's image repository: an HTTP server on loopback that answers range requests as a far one does, dies, and comes back. */
import { createReadStream, statSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** How far away it is, and the bytes a second of each reply. */
const DELAY_MS = 20;
const RATE = 24 * 1024 ** 2;

export class Repository implements AsyncDisposable {
  readonly #path: string;
  #server: Server | undefined;
  #port = 0;

  /** @param path the one file that it has */
  constructor(path: string) {
    this.#path = path;
  }

  /** Begins to answer; at the same address each time. */
  async start(): Promise<void> {
    const server = createServer(this.#answer);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(this.#port, "127.0.0.1", resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Of all that it has; ends in a slash. */
  get url(): string {
    return `http://127.0.0.1:${this.#port}/`;
  }

  /** Breaks off everything and answers no more. */
  async die(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.die();
  }

  readonly #answer: RequestListener = async (request, reply) => {
    const [, first, last] = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(request.headers.range ?? "") ?? [];
    const { size } = statSync(this.#path);
    const start = Number(first);
    if (request.method !== "GET" || !(start < size)) return reply.writeHead(416).end();
    const end = Math.min(Number(last), size - 1);
    const length = end - start + 1;
    await sleep(DELAY_MS + (length / RATE) * 1000);
    if (reply.destroyed) return reply;
    const range = `bytes ${start}-${end}/${size}`;
    reply.writeHead(206, { etag: '"1"', "content-range": range, "content-length": length });
    return createReadStream(this.#path, { start, end })
      .on("error", () => reply.destroy())
      .pipe(reply);
  };
}
