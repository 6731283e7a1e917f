import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { receiveFrom } from "./receiver.ts";

/** Receives, the first bytes of all into a place of its own. */
class Kept {
  readonly placed = Buffer.alloc(5);
  all = "";
  #asked = false;

  place(): Buffer | undefined {
    if (this.#asked) return undefined;
    this.#asked = true;
    return this.placed;
  }
  received(bytes: Buffer): void {
    this.all += bytes.toString();
  }
}

test("bytes come where they are wanted, and the socket is the same connection", async () => {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const client = connect(port, "127.0.0.1");
  const [accepted] = (await once(server, "connection")) as [Socket];
  const kept = new Kept();
  const socket = receiveFrom(accepted, kept);
  client.write("hello, world");
  while (kept.all.length < 12) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([kept.all, kept.placed.toString()], ["hello, world", "hello"]);
  socket.end();
  await once(client.resume(), "end");
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

test("where Node.js has changed inside, bytes come all the same", async () => {
  const accepted = new PassThrough();
  const kept = new Kept();
  assert.equal(receiveFrom(accepted as unknown as Socket, kept), accepted);
  accepted.write("hello");
  accepted.end(", world");
  await once(accepted, "end");
  assert.equal(kept.all, "hello, world");
});
