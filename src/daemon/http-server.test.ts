import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { request as requestTls } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, test } from "node:test";
import { FakeFeed, fakeService, fakeWatch } from "../../test/support/fake-service.ts";
import { makeCertificates } from "../../test/support/tls-files.ts";
import { StreamdiskError } from "../errors/index.ts";
import { type HttpAppOptions, httpApp } from "./http-app.ts";
import { type HttpServer, serveTcp, serveUnix } from "./http-server.ts";
import { noLog } from "./log.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-http-"));
after(() => rmSync(directory, { recursive: true }));
const ACCESS = { token: "right" };
let count = 0;

function made(options: Partial<HttpAppOptions> = {}) {
  const service = fakeService();
  const events = new FakeFeed();
  const app = httpApp(service, { events, watch: fakeWatch, access: ACCESS, log: noLog, ...options });
  return { service, events, app, path: join(directory, `${count++}.sock`) };
}

function send(path: string, options: object, body?: string | Buffer): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: path, path: "/v1/daemon", ...options }, resolve);
    sent.once("error", reject);
    sent.end(body);
  });
}

async function raw(path: string, bytes: string): Promise<string> {
  const socket = connect(path);
  socket.write(bytes);
  return text(socket);
}

test("it answers on its socket, which only its owner may use, and takes it away at the end", async () => {
  const { app, path } = made();
  const server = await serveUnix(app, { path });
  assert.equal(server.address, path);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const response = await send(path, {});
  assert.equal(response.statusCode, 200);
  assert.equal(JSON.parse(await text(response)).version, "9.9.9");
  await assert.rejects(serveUnix(app, { path }), { code: "in-use" });
  await server.close(1000);
  assert.equal(existsSync(path), false);
});

test("what is no proper request is refused, and the next one is answered", async () => {
  const { app, path } = made();
  const server = await serveUnix(app, { path });
  for (const line of [
    "GET /v1/daemon HTTP/1.1\r\n\r\n",
    "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    "GET v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "GET /v1\\daemon HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "nonsense\r\n\r\n",
    "POST /v1/disks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST /v1/disks HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    `GET /v1/daemon HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(20_000)}\r\n\r\n`,
  ]) {
    assert.match(await raw(path, line), /^HTTP\/1\.1 4\d\d /, line.slice(0, 60));
  }
  const climbing = await raw(path, "GET /v1/disks/../../etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  assert.match(climbing, /^HTTP\/1\.1 404 [\s\S]*"code":"not-found"/);
  assert.equal((await send(path, {})).statusCode, 200);
  await server.close(1000);
});

test("a huge body is refused when it is announced, and a slow one in time", async () => {
  const { app, path, service } = made({ limits: { bodyMs: 50 } });
  const server = await serveUnix(app, { path });
  const head = "POST /v1/disks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  assert.match(await raw(path, `${head}Content-Length: 999999999\r\n\r\n{`), /^HTTP\/1\.1 413 .*[\s\S]*65536/);
  assert.match(await raw(path, `${head}Content-Length: 100\r\n\r\n{`), /^HTTP\/1\.1 408 /);
  assert.match(await raw(path, `${head}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`), /^HTTP\/1\.1 408 /);
  const large = await send(
    path,
    { path: "/v1/disks", method: "POST", headers: { "Content-Type": "application/json" } },
    Buffer.alloc(1024 * 1024, 32),
  );
  assert.equal(large.statusCode, 413);
  assert.deepEqual(service.calls, []);
  await server.close(1000);
});

test("over TCP it needs a token, and TLS where others can reach it", async () => {
  const { app } = made();
  const listen = { host: "127.0.0.1", port: 0 };
  await assert.rejects(serveTcp(app, listen, {}), { code: "refused", message: /needs a token/ });
  for (const host of ["0.0.0.0", "::", "192.0.2.1", "example.org"]) {
    await assert.rejects(serveTcp(app, { host, port: 0 }, ACCESS), { code: "refused", message: /needs TLS/ });
  }
  const server = await serveTcp(app, listen, ACCESS);
  const get = (headers: Record<string, string>) => fetch(`${server.address}/v1/daemon`, { headers });
  assert.equal((await get({})).status, 401);
  assert.equal((await get({ Authorization: "Bearer wrong" })).status, 401);
  assert.equal((await get({ Authorization: "Bearer right" })).status, 200);
  const port = Number(new URL(server.address).port);
  const named = (host: string) =>
    send("", { socketPath: undefined, host: "127.0.0.1", port, headers: { host, authorization: "Bearer right" } });
  assert.equal((await named("rebound.example")).statusCode, 403);
  assert.equal((await named(`localhost:${port}`)).statusCode, 200);
  await assert.rejects(serveTcp(app, { host: "127.0.0.1", port }, ACCESS), { code: "in-use" });
  await server.close(1000);
});

test("with TLS it is called what its certificate says", async () => {
  const { app } = made();
  const tlsCertificates = makeCertificates(join(directory, "tls"));
  const server = await serveTcp(app, { host: "0.0.0.0", port: 0, tlsCertificates }, ACCESS);
  const port = Number(new URL(server.address).port);
  const status = (host: string): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const headers = { host, authorization: "Bearer right" };
      const sent = requestTls(
        { host: "127.0.0.1", port, path: "/v1/daemon", headers, rejectUnauthorized: false },
        (got) => {
          got.resume();
          resolve(got.statusCode);
        },
      );
      sent.once("error", reject);
      sent.end();
    });
  assert.equal(await status(`localhost:${port}`), 200);
  assert.equal(await status(`127.0.0.1:${port}`), 200);
  assert.equal(await status("evil.example"), 403);
  await server.close(1000);
  const missing = serveTcp(app, { host: "::1", port: 0, tlsCertificates: directory }, ACCESS);
  await assert.rejects(missing, { code: "not-found" });
});

async function followed(path: string): Promise<IncomingMessage> {
  const response = await send(path, { path: "/v1/events", headers: { Accept: "text/event-stream" } });
  await once(response, "readable");
  return response;
}

test("a follower that hangs up is forgotten", async () => {
  const { app, path, events } = made();
  const server = await serveUnix(app, { path });
  const response = await followed(path);
  assert.equal(events.following, 1);
  response.destroy();
  for (let i = 0; i < 200 && events.following > 0; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(events.following, 0);
  await server.close(1000);
});

test("a follower that takes nothing loses its line, and goes on from where it was on another", async () => {
  const { app, path, events } = made({ limits: { heartbeatMs: 20 } });
  const server = await serveUnix(app, { path });
  for (let i = 0; i < 20_000; i++) events.add();
  const head = "GET /v1/events?after=0 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n";
  const socket = connect(path);
  socket.pause().write(`${head}\r\n`);
  await once(socket, "connect");
  while (events.following === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  while (events.following > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const got = await text(socket).catch(() => "");
  const last = [...got.matchAll(/^id: (\d+)$/gm)].at(-1)?.[1] ?? "0";
  assert.ok(Number(last) < 20_000);
  const next = connect(path);
  next.write(`${head}Last-Event-ID: ${last}\r\n\r\n`);
  let resumed = "";
  for await (const chunk of next) {
    resumed += String(chunk);
    if (resumed.includes('"id":20000')) break;
  }
  assert.equal(/^data: \{"id":(\d+)/m.exec(resumed)?.[1], String(Number(last) + 1));
  await server.close(1000);
});

test("close waits for what is under way, and for followers to be ended", async () => {
  const closing = new AbortController();
  const { app, path, service } = made({ closing: closing.signal });
  const server = await serveUnix(app, { path });
  const gate = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const response = await followed(path);
  const followedText = text(response);
  service.before = () => {
    asked.resolve();
    return gate.promise;
  };
  const slow = send(path, {});
  await asked.promise;
  closing.abort();
  const closed = server.close(60_000);
  assert.match(await followedText, /^retry/);
  gate.resolve();
  assert.equal((await slow).statusCode, 200);
  await closed;
});

test("close does not wait for ever", async () => {
  const { app, path, service } = made();
  const server: HttpServer = await serveUnix(app, { path });
  service.before = () => new Promise(() => {});
  const never = send(path, {});
  const failed = assert.rejects(never, { code: "ECONNRESET" });
  while (service.calls.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await server.close(20);
  await failed;
});

test("a StreamdiskError goes over the wire as what it is", async () => {
  const { app, path, service } = made();
  const server = await serveUnix(app, { path });
  service.before = () => {
    throw new StreamdiskError("no-space", "'vm1' is full");
  };
  const response = await send(path, { path: "/v1/disks/vm1" });
  assert.equal(response.statusCode, 507);
  assert.equal(JSON.parse(await text(response)).code, "no-space");
  await server.close(1000);
});
