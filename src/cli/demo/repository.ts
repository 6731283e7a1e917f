/**
 * The demo's image repository: an HTTP server on loopback that is as slow as one that is far away, dies, and comes back. All its replies share
 * one line, evenly: each sends a slice and waits for its next turn.
 */
import { type FileHandle, open } from "node:fs/promises";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** How far away it is. */
export const DELAY_MS = 20;
/** Bytes a second, of all replies together. */
export const RATE = 12 * 1024 ** 2;
const SLICE = 32 * 1024;
/** How much of its time the line may catch up with when the timers are late. */
const LATENESS_MS = 20;

export class Repository implements AsyncDisposable {
  readonly #path: string;
  #server: Server | undefined;
  #port = 0;
  /** When the line has sent all that was given to it. */
  #freeAt = 0;

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

  readonly #answer: RequestListener = (request, reply) => {
    const [, first, last] = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(request.headers.range ?? "") ?? [];
    const send = async (): Promise<void> => {
      await using file = await open(this.#path);
      const { size } = await file.stat();
      const start = Number(first);
      if (request.method !== "GET" || !(start < size)) return void reply.writeHead(416).end();
      const end = Math.min(Number(last) + 1, size);
      await sleep(DELAY_MS);
      const range = `bytes ${start}-${end - 1}/${size}`;
      reply.writeHead(206, { etag: '"1"', "content-range": range, "content-length": end - start });
      for (let at = start; at < end && !reply.destroyed; at += SLICE) {
        reply.write(await this.#slice(file, at, Math.min(SLICE, end - at)));
      }
      reply.end();
    };
    send().catch(() => reply.destroy());
  };

  /** Reads a slice, and waits until the line has had the time to send it. */
  async #slice(file: FileHandle, at: number, length: number): Promise<Uint8Array> {
    const now = performance.now();
    this.#freeAt = Math.max(this.#freeAt, now - LATENESS_MS) + (length / RATE) * 1000;
    const { buffer } = await file.read(new Uint8Array(length), 0, length, at);
    await sleep(Math.max(0, this.#freeAt - now));
    return buffer;
  }
}
