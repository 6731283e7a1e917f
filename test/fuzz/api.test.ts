/**
 * The API under requests drawn from its own document: what the document allows reaches the service, what it doesn't is refused, and
 * whatever comes, the answer is one that the document knows: never a 500 by itself, never none.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { openApiDocument } from "../../src/api/index.ts";
import { httpApp } from "../../src/daemon/http-app.ts";
import { serveUnix } from "../../src/daemon/http-server.ts";
import { ERROR_TABLE, type ErrorCode, StreamdiskError } from "../../src/errors/index.ts";
import { below, chance, oneOf } from "../support/draw.ts";
import { FakeFeed, fakeService, fakeWatch } from "../support/fake-service.ts";
import { pick, rng } from "../support/seed.ts";
import { type Document, type DrawnRequest, RequestDraws } from "./api-inputs.ts";

/** What no request may take, however slow the machine. */
const HANG_MS = 20_000;

const document = openApiDocument("1") as unknown as Document;
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);
const random = rng("api");
const draws = new RequestDraws(document, random);

/** Errors that a service may give and that are no failure of the daemon's own. */
const CODES = (Object.keys(ERROR_TABLE) as ErrorCode[]).filter((code) => ERROR_TABLE[code].http !== 500);

function made() {
  const internal: unknown[] = [];
  const nothing = (): void => {};
  const error = (facts: object): void => {
    internal.push(facts);
  };
  const log = { debug: nothing, info: nothing, warn: nothing, error };
  const service = fakeService();
  const limits = { rate: { perSecond: 1e6, burst: 1e6 }, bodyMs: 1000 };
  const app = httpApp(service, { events: new FakeFeed(), watch: fakeWatch, access: {}, log, limits });
  return { service, app, internal };
}

async function inTime<T>(what: T | Promise<T>, request: unknown): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const hung = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`No answer to ${JSON.stringify(request)}`)), HANG_MS);
  });
  return Promise.race([what, hung]).finally(() => clearTimeout(timer));
}

async function answered({ app, internal }: ReturnType<typeof made>, drawn: DrawnRequest) {
  const { path, ...init } = drawn;
  if (init.method === "GET" || init.method === "HEAD") Reflect.deleteProperty(init, "body");
  const response = await inTime(app.request(path, init, { caller: { kind: "unix" } }), drawn);
  const text = response.headers.get("content-type") === "text/event-stream" ? "" : await inTime(response.text(), drawn);
  await response.body?.cancel().catch(() => {});
  assert.deepEqual(internal, [], JSON.stringify(drawn));
  assert.notEqual(response.status, 500, JSON.stringify(drawn));
  if (response.status >= 400 && init.method !== "HEAD") {
    assert.equal(response.headers.get("content-type"), "application/problem+json", JSON.stringify(drawn));
    const { status, code, detail } = JSON.parse(text) as { status: number; code: string; detail: string };
    assert.equal(status, response.status);
    assert.ok(code in ERROR_TABLE, code);
    assert.ok(detail.length > 0 && detail.length <= 2000);
  }
  return { status: response.status, text };
}

test("what the document allows reaches the service", async () => {
  const parts = made();
  for (let round = 0; round < pick(20, 400); round++) {
    for (const { path, method, operation } of operations) {
      const request = draws.fitting(path, method, operation);
      const { status, text } = await answered(parts, request);
      assert.ok(
        status < 300 && String(status) in operation.responses,
        `${status} ${text} for ${JSON.stringify(request)}`,
      );
      assert.equal(parts.service.calls.pop()?.name, operation.operationId);
    }
  }
});

test("whatever comes, and whatever the service says, the answer is one of the document's", async () => {
  const parts = made();
  parts.service.before = () => {
    if (chance(random, 0.5))
      throw new StreamdiskError(oneOf(random, CODES), "It is not to be", { node: "x", offset: 1 });
  };
  const seen = new Map<number, number>();
  for (let round = 0; round < pick(2000, 100_000); round++) {
    const { path, method, operation } = oneOf(random, operations);
    let request = draws.fitting(path, method, operation);
    for (let spoils = below(random, 3); spoils > 0; spoils--) request = draws.spoiled(request);
    const { status } = await answered(parts, request);
    seen.set(status, (seen.get(status) ?? 0) + 1);
  }
  for (const status of [200, 201, 400, 404, 405, 409, 413, 415, 503]) assert.ok(seen.has(status), `never a ${status}`);
});

test("bytes that are hardly HTTP are answered or cut off, and the next request is served", async () => {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-api-"));
  const { app, internal } = made();
  const path = join(directory, "s");
  const server = await serveUnix(app, { path });
  try {
    for (let round = 0; round < pick(60, 3000); round++) {
      const drawn = oneOf(random, operations);
      const request = draws.fitting(drawn.path, drawn.method, drawn.operation);
      const { body = "" } = request;
      const head = `${request.method} ${request.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n`;
      const bytes = Buffer.from(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
      for (let spoils = below(random, 4); spoils > 0; spoils--)
        bytes[below(random, Math.min(bytes.length, 120))] = below(random, 256);
      const socket = connect({ path, allowHalfOpen: true });
      socket.on("error", () => {});
      socket.end(chance(random, 0.3) ? bytes.subarray(0, below(random, bytes.length)) : bytes);
      const answer = await inTime(
        buffer(socket).catch(() => Buffer.alloc(0)),
        bytes.toString("latin1"),
      );
      assert.doesNotMatch(answer.toString(), /^HTTP\/1\.1 500/, bytes.toString("latin1"));
    }
    assert.deepEqual(internal, []);
    assert.match(await health(path), /^HTTP\/1\.1 200/);
  } finally {
    await server.close(1000);
    rmSync(directory, { recursive: true });
  }
});

async function health(path: string): Promise<string> {
  const socket = connect({ path, allowHalfOpen: true });
  socket.write("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  return (await buffer(socket)).toString();
}
