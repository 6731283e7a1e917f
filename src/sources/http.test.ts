import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { openHttp } from "./http.ts";

const OBJECT = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));
const FAST = { now: () => 0, sleep: async () => {} };

type Handler = (request: IncomingMessage, reply: ServerResponse) => void;

const servers: Server[] = [];
after(() => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
});

async function serve(handler: Handler): Promise<string> {
  const server = createServer(handler);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function rangeOf(request: IncomingMessage): { start: number; end: number } {
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
  assert.ok(match, `a request without a range: ${request.headers.range}`);
  return { start: Number(match[1]), end: Math.min(Number(match[2]), OBJECT.length - 1) };
}

/** What a good server answers. */
function answer(request: IncomingMessage, reply: ServerResponse, headers: Record<string, string> = {}): void {
  const { start, end } = rangeOf(request);
  reply.writeHead(206, {
    etag: '"v1"',
    "content-range": `bytes ${start}-${end}/${OBJECT.length}`,
    "content-length": String(end - start + 1),
    ...headers,
  });
  reply.end(OBJECT.subarray(start, end + 1));
}

test("reads ranges, many at once, with GET alone", async () => {
  const methods = new Set<string | undefined>();
  const base = await serve((request, reply) => {
    methods.add(request.method);
    answer(request, reply);
  });
  await using node = await openHttp(`${base}/disk.raw?signature=secret`);
  assert.equal(node.length, OBJECT.length);
  assert.equal(node.name, `${base}/disk.raw`);
  assert.ok(node.pinned);
  const reads = Array.from({ length: 20 }, (_, i) => ({ offset: i * 4999, target: new Uint8Array(4096) }));
  await Promise.all(reads.map(({ offset, target }) => node.read(offset, target)));
  for (const { offset, target } of reads) assert.ok(OBJECT.subarray(offset, offset + 4096).equals(target));
  assert.deepEqual([...methods], ["GET"]);
  await assert.rejects(node.read(OBJECT.length - 1, new Uint8Array(2)), { code: "invalid-argument" });
  await assert.rejects(node.write(), { code: "permission" });
});

test("a server without ranges, a missing object, a refusal and a wrong status are told apart", async () => {
  const cases = [
    [200, "unsupported"],
    [404, "not-found"],
    [403, "permission"],
    [416, "changed"],
    [418, "protocol"],
    [503, "source-lost"],
  ] as const;
  for (const [status, code] of cases) {
    const base = await serve((_request, reply) => reply.writeHead(status).end("no"));
    await assert.rejects(openHttp(`${base}/x`, { clock: FAST }), { code, message: new RegExp(`${status}`) });
  }
});

test("an empty object has no bytes", async () => {
  const base = await serve((_request, reply) => reply.writeHead(416, { "content-range": "bytes */0" }).end());
  await using node = await openHttp(`${base}/empty`);
  assert.equal(node.length, 0);
});

test("another version is refused before a byte of it is used", async () => {
  const changes: Record<string, string>[] = [
    { etag: '"v2"' },
    { "content-range": "bytes 0-15/99999" },
    { "last-modified": "yesterday" },
  ];
  for (const changed of changes) {
    let requests = 0;
    const base = await serve((request, reply) => answer(request, reply, requests++ === 0 ? {} : changed));
    await using node = await openHttp(`${base}/x`);
    const target = new Uint8Array(16).fill(0xee);
    await assert.rejects(node.read(0, target), { code: "changed" });
    assert.ok(target.every((byte) => byte === 0xee));
  }
});

test("what breaks HTTP is refused", async () => {
  const faults: readonly [string, Handler, string][] = [
    ["another range", (request, reply) => answer(request, reply, { "content-range": "bytes 5-20/100000" }), "protocol"],
    ["no range", (_request, reply) => reply.writeHead(206, { etag: '"v1"' }).end("x"), "protocol"],
    ["encoded", (request, reply) => answer(request, reply, { "content-encoding": "gzip" }), "protocol"],
    ["nonsense", (request, reply) => answer(request, reply, { "content-range": "bytes 9-3/-1" }), "protocol"],
  ];
  for (const [what, handler, code] of faults) {
    let requests = 0;
    const base = await serve((request, reply) => (requests++ === 0 ? answer : handler)(request, reply));
    await using node = await openHttp(`${base}/x`, { clock: FAST });
    await assert.rejects(node.read(0, new Uint8Array(16)), { code }, what);
  }
});

test("what may pass is tried again, and then lost", async () => {
  let requests = 0;
  const base = await serve((request, reply) => {
    requests++;
    if (requests === 2) reply.writeHead(503).end();
    else if (requests === 3) request.socket.destroy();
    else if (requests === 4) {
      const { start, end } = rangeOf(request);
      reply.writeHead(206, { etag: '"v1"', "content-range": `bytes ${start}-${end}/${OBJECT.length}` });
      reply.write(OBJECT.subarray(start, start + 5), () => request.socket.destroy());
    } else answer(request, reply);
  });
  await using node = await openHttp(`${base}/x`, { clock: FAST });
  const target = new Uint8Array(1000);
  await node.read(500, target);
  assert.ok(OBJECT.subarray(500, 1500).equals(target));
  assert.equal(requests, 5);

  const gone = await serve((request, reply) => (requests++ === 5 ? answer(request, reply) : request.socket.destroy()));
  await using lost = await openHttp(`${gone}/x?token=secret`, { clock: FAST });
  await assert.rejects(lost.read(0, target), (error: Error & { code: string }) => {
    assert.equal(error.code, "source-lost");
    assert.doesNotMatch(error.message, /secret/);
    return true;
  });
});

test("a redirection is remembered, and asked for anew when it has expired", async () => {
  let ticket = 0;
  let valid = 0;
  const asked: string[] = [];
  const base = await serve((request, reply) => {
    asked.push(request.url ?? "");
    if (request.url === "/disk") {
      ticket++;
      valid = ticket;
      reply.writeHead(302, { location: `/signed?t=${ticket}` }).end();
    } else if (request.url === `/signed?t=${valid}`) answer(request, reply);
    else reply.writeHead(403).end();
  });
  await using node = await openHttp(`${base}/disk`);
  const target = new Uint8Array(10);
  await node.read(0, target);
  valid = -1;
  await node.read(10, target);
  assert.ok(OBJECT.subarray(10, 20).equals(target));
  assert.deepEqual(asked, ["/disk", "/signed?t=1", "/signed?t=1", "/signed?t=1", "/disk", "/signed?t=2"]);
});

test("a redirection that never ends is refused", async () => {
  const base = await serve((_request, reply) => reply.writeHead(302, { location: "/again" }).end());
  await assert.rejects(openHttp(`${base}/x`), { code: "protocol" });
});

test("credentials are sent to their host, and shown nowhere", async () => {
  let sent: string | undefined;
  const base = await serve((request, reply) => {
    sent = request.headers.authorization;
    reply.writeHead(404).end();
  });
  const address = `${base.replace("http://", "http://user:pass%20word@")}/x?key=secret`;
  await assert.rejects(openHttp(address), (error: Error) => {
    assert.doesNotMatch(JSON.stringify(error) + error.message + String(error.stack), /pass|secret/);
    return true;
  });
  assert.equal(sent, `Basic ${Buffer.from("user:pass word").toString("base64")}`);
  await assert.rejects(openHttp("http://user:pass@:bad"), (error: Error) => !/pass/.test(error.message));
});
