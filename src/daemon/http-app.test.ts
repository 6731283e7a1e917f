import assert from "node:assert/strict";
import { test } from "node:test";
import { DISK, FakeFeed, fakeService, fakeWatch } from "../../test/support/fake-service.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { type Problem, ROUTES, type RouteName, type RouteParts } from "../api/index.ts";
import { ERROR_TABLE, type ErrorCode, StreamdiskError } from "../errors/index.ts";
import { type HttpAppOptions, type HttpBindings, httpApp } from "./http-app.ts";
import { noLog } from "./log.ts";

const UNIX: HttpBindings = { caller: { kind: "unix" } };
const TCP: HttpBindings = {
  caller: { kind: "tcp", address: "127.0.0.1", secure: false, isOwnName: (host) => host === "localhost" },
};

function made(options: Partial<HttpAppOptions> = {}) {
  const service = fakeService();
  const events = new FakeFeed();
  const app = httpApp(service, { events, watch: fakeWatch, access: { token: "right" }, log: noLog, ...options });
  const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const type: Record<string, string> = text === undefined ? {} : { "Content-Type": "application/json" };
    const init = { method, headers: { ...type, ...headers }, ...(text !== undefined && { body: text }) };
    return app.request(path, init, UNIX);
  };
  return { service, events, app, call };
}

async function refused(response: Response, status: number, code: ErrorCode, detail?: RegExp): Promise<Problem> {
  const problem = (await response.json()) as Problem;
  assert.deepEqual([response.status, problem.code], [status, code], problem.detail);
  assert.equal(problem.status, status);
  assert.equal(response.headers.get("content-type"), "application/problem+json");
  if (detail !== undefined) assert.match(problem.detail, detail);
  return problem;
}

const BODIES: Partial<Record<RouteName, unknown>> = {
  createDisk: { name: "vm1", backing: "https://images/base.qcow2" },
  resizeDisk: { length: 4096 },
  replaceSource: { backing: "nbd://other/base" },
  attachDisk: { disk: "vm1" },
  setPolicy: { holdMs: 1000, afterwards: "error" },
  replaceDomainSource: { backing: "nbd://other/base" },
  setSpeed: { speed: null },
  setLimit: { place: "all", speed: null },
  addExport: { name: "base", image: "/images/base.raw" },
  deploy: { name: "vm1", image: "/images/base.qcow2" },
  addDomain: { name: "web", qmp: "/run/web.qmp" },
  runMachine: { xml: "<domain/>" },
};

for (const [name, route] of Object.entries<RouteParts>(ROUTES) as [RouteName, RouteParts][]) {
  test(`${route.method} ${route.path} asks for ${name}, and gives what comes of it`, async () => {
    const { service, call } = made();
    const path = route.path.replaceAll(/\{\w+\}/g, "vm1");
    const response = await call(route.method, path, BODIES[name]);
    assert.equal(response.status, route.status, await response.clone().text());
    assert.deepEqual(
      service.calls.map((made) => made.name),
      [name],
    );
    assert.equal([...new Set(Object.values(service.calls[0]?.input.params ?? {}))].join(), route.params ? "vm1" : "");
    if (route.status !== 204) assert.ok(route.result.safeParse(await response.json()).success);
  });
}

test("what was left out has its default when the service gets it", async () => {
  const { service, call } = made();
  await call("POST", "/v1/disks/vm1/step");
  await call("GET", "/v1/disks?limit=7&hydrated=false");
  await call("DELETE", "/v1/disks/vm1");
  assert.deepEqual(
    service.calls.map(({ input }) => ({ ...input.query, ...input.body })),
    [{ length: 2 ** 20 }, { limit: 7, hydrated: false }, { deleteFile: false }],
  );
});

test("what is wrong with an input is said of the field, and the service is not asked", async () => {
  const { service, call } = made();
  const wrong = async (what: Promise<Response>, detail: RegExp): Promise<void> => {
    await refused(await what, 400, "invalid-argument", detail);
  };
  await wrong(call("POST", "/v1/disks", { name: "vm1", size: "1G" }), /^Field 'size' of the body: expected number/);
  await wrong(call("POST", "/v1/disks", {}), /^Field 'name' of the body/);
  await wrong(call("POST", "/v1/disks", { name: "vm1", sise: 1 }), /^The body has no 'sise'$/);
  await wrong(
    call("POST", "/v1/disks", { name: "vm1", stream: { sped: 1 } }),
    /^Field 'stream' of the body has no 'sped'/,
  );
  await wrong(call("POST", "/v1/disks", { name: "vm1", image: "a\0b" }), /^Field 'image' of the body/);
  await wrong(call("POST", "/v1/disks", "{"), /^The body is not JSON/);
  await wrong(call("POST", "/v1/disks", "[]"), /^The body: expected object/);
  await wrong(call("GET", "/v1/disks?limit=0"), /^Field 'limit' of the query: Too small/);
  await wrong(call("GET", "/v1/disks?limit=ten"), /^Field 'limit' of the query: expected number/);
  await wrong(call("GET", "/v1/disks?limit=1&limit=2"), /'limit' is twice/);
  await wrong(call("GET", "/v1/daemon?verbose=1"), /query takes no 'verbose'/);
  await wrong(call("DELETE", "/v1/disks/vm1", { deleteFile: true }), /takes no body/);
  assert.deepEqual(service.calls, []);
});

test("names that would leave their directory reach nobody", async () => {
  const { service, call } = made();
  for (const name of [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    ".hidden",
    "a%00b",
    "a%2fb",
    "%ff",
    "a%0ab",
    "x".repeat(64),
  ]) {
    const { status } = await call("GET", `/v1/disks/${name}`);
    assert.ok(status === 400 || status === 404, `${name}: ${status}`);
  }
  for (const name of ["../x", "/etc/passwd", "a/b", "a\0", ""]) {
    await refused(await call("POST", "/v1/disks", { name }), 400, "invalid-argument", /'name'/);
  }
  assert.deepEqual(service.calls, []);
});

test("every error of the table keeps its code, sentence and context, at its status", async () => {
  const { service, call } = made();
  for (const [code, { http }] of Object.entries(ERROR_TABLE) as [ErrorCode, { http: number }][]) {
    service.before = () => {
      throw new StreamdiskError(code, "'vm1' is not well", { node: "vm1", offset: 512 });
    };
    const problem = await refused(await call("GET", "/v1/disks/vm1"), http, code, /^'vm1' is not well$/);
    assert.deepEqual(problem.context, { node: "vm1", offset: 512 });
  }
});

test("a failure that nobody foresaw tells the log everything and the caller nothing", async () => {
  const logged: object[] = [];
  const log = { ...noLog, debug: () => {}, error: (facts: object) => void logged.push(facts) };
  const { service, call } = made({ log });
  service.before = () => {
    throw new TypeError("secret of the inside");
  };
  const problem = await refused(await call("GET", "/v1/disks/vm1"), 500, "io", /^Internal error: .* request '[\w-]+'$/);
  assert.doesNotMatch(JSON.stringify(problem), /secret|\.ts/);
  const [{ err, request }] = logged as [{ err: Error; request: string }];
  assert.equal(err.message, "secret of the inside");
  assert.ok(problem.detail.includes(request));
});

test("a path that is not there, and a method that is not for it", async () => {
  const { call } = made();
  await refused(await call("GET", "/v1/nothing"), 404, "not-found");
  await refused(await call("GET", "/v1/disks/"), 404, "not-found");
  const patch = await call("PATCH", "/v1/disks/vm1");
  await refused(patch, 405, "invalid-argument", /takes GET, DELETE/);
  assert.equal(patch.headers.get("allow"), "GET, DELETE");
  assert.equal((await call("HEAD", "/v1/disks/vm1")).status, 200);
});

test("a body that is too long is refused, announced or not, and one that is no JSON too", async () => {
  const { service, app, call } = made();
  let read = 0;
  const endless = () =>
    new ReadableStream<Uint8Array>({
      pull: (controller) => {
        read += 1;
        controller.enqueue(new Uint8Array(16 * 1024).fill(32));
      },
    });
  const init = (headers: Record<string, string>) => ({
    method: "POST",
    body: endless(),
    duplex: "half" as const,
    headers: { "Content-Type": "application/json", ...headers },
  });
  const announced = await app.request("/v1/disks", init({ "Content-Length": "65537" }), UNIX);
  await refused(announced, 413, "invalid-argument", /65536 bytes/);
  assert.ok(read <= 1, "only what the stream fetches by itself");
  await refused(await app.request("/v1/disks", init({}), UNIX), 413, "invalid-argument");
  assert.ok(read < 9);
  await refused(await call("POST", "/v1/disks", "{}", { "Content-Type": "text/plain" }), 415, "invalid-argument");
  assert.deepEqual(service.calls, []);
});

test("a body that does not come is not waited for", async () => {
  const clock = new ManualClock();
  const { app } = made({ clock });
  const body = new ReadableStream<Uint8Array>({ start: (controller) => controller.enqueue(new Uint8Array([123])) });
  const response = app.request("/v1/disks", { method: "POST", body, duplex: "half" }, UNIX);
  await refused(await clock.runUntil(Promise.resolve(response), 1000), 408, "invalid-argument", /10 seconds/);
  assert.equal(clock.now() <= 12_000, true);
});

test("over TCP: the token, the name of the host and where the page is from", async () => {
  const { app, service } = made();
  const get = (path: string, headers: Record<string, string>, bindings: HttpBindings = TCP) =>
    app.request(path, { headers }, bindings);
  const good = { Host: "localhost:80", Authorization: "Bearer right" };
  assert.equal((await get("/v1/daemon", good)).status, 200);
  assert.equal((await get("/v1/daemon", { ...good, Origin: "http://localhost:80" })).status, 200);
  const asked = service.calls.length;
  const none = await get("/v1/daemon", { Host: "localhost" });
  await refused(none, 401, "permission", /takes a token/);
  assert.equal(none.headers.get("www-authenticate"), "Bearer");
  for (const token of ["wrong", "righ", "rightt", "RIGHT"]) {
    const response = await get("/v1/daemon", { ...good, Authorization: `Bearer ${token}` });
    await refused(response, 401, "permission", /not valid/);
  }
  for (const Host of ["evil.example", "localhost.evil.example", "localhost:80@evil", ""]) {
    await refused(await get("/v1/daemon", { ...good, Host }), 403, "refused", /not called/);
  }
  for (const Origin of ["http://evil.example", "null", "https://localhost:80", "http://localhost:81"]) {
    await refused(await get("/v1/daemon", { ...good, Origin }), 403, "refused", /page of/);
  }
  await refused(await get("/v1/daemon", good, {}), 403, "refused");
  assert.equal(service.calls.length, asked);
  assert.equal((await get("/healthz", { Host: "localhost" })).status, 200);
  assert.equal((await get("/readyz", { Host: "localhost" })).status, 200);
  await refused(await get("/metrics", { Host: "localhost" }), 401, "permission");
  await refused(await get("/healthz", { Host: "evil.example" }), 403, "refused");
});

test("a daemon without a token lets nobody in over TCP", async () => {
  const { app } = made({ access: {} });
  for (const token of ["", "undefined", "x"]) {
    const headers = { Host: "localhost", Authorization: `Bearer ${token}` };
    assert.equal((await app.request("/v1/daemon", { headers }, TCP)).status, 401);
  }
});

test("a page has no business on the Unix socket", async () => {
  const { call } = made();
  const page = await call("GET", "/v1/daemon", undefined, { Origin: "http://localhost" });
  await refused(page, 403, "refused");
});

test("who calls too often waits, and others do not", async () => {
  const clock = new ManualClock();
  const { app, call } = made({ clock, limits: { rate: { perSecond: 2, burst: 3 } } });
  for (let i = 0; i < 3; i++) assert.equal((await call("GET", "/healthz")).status, 200);
  const fourth = await call("GET", "/healthz");
  await refused(fourth, 429, "in-use");
  assert.equal(fourth.headers.get("retry-after"), "1");
  assert.equal((await app.request("/healthz", { headers: { Host: "localhost" } }, TCP)).status, 200);
  await clock.advance(500);
  assert.equal((await call("GET", "/healthz")).status, 200);
  assert.equal((await call("GET", "/healthz")).status, 429);
});

test("health, readiness, metrics and the document", async () => {
  const { service, call } = made();
  await call("GET", "/v1/disks/vm1");
  const metrics = await (await call("GET", "/metrics")).text();
  for (const line of [
    'streamdisk_disks{state="ready"} 1',
    'streamdisk_streams{state="running"} 1',
    'streamdisk_disk_missing_bytes{disk="vm1"} 1000',
    'streamdisk_disk_fetched_bytes_total{disk="vm1"} 24',
    'streamdisk_export_clients{export="base"} 0',
    'streamdisk_disk_sources{state="ok"} 1',
    "# TYPE streamdisk_disk_fetched_bytes_total counter",
    "# TYPE streamdisk_event_loop_lag_seconds gauge",
    'streamdisk_disk_held_requests{disk="vm1"} 3',
    'streamdisk_http_requests_total{route="/v1/disks/{disk}",method="GET",status="200"} 1',
  ]) {
    assert.ok(metrics.includes(`${line}\n`), `${line} is not in:\n${metrics}`);
  }
  const document = (await (await call("GET", "/v1/openapi.json")).json()) as { info: { version: string } };
  assert.equal(document.info.version, "9.9.9");
  service.before = () => {
    throw new StreamdiskError("shutdown", "The daemon is stopping");
  };
  assert.equal((await call("GET", "/healthz")).status, 200);
  const response = await call("GET", "/readyz");
  assert.equal(response.headers.get("retry-after"), "1");
  await refused(response, 503, "shutdown");
});

test("a request with a key acts once, also while it is under way", async () => {
  const { service, call } = made();
  const gate = Promise.withResolvers<void>();
  service.before = () => gate.promise;
  const create = (body: object, key = "k1") => call("POST", "/v1/disks", body, { "Idempotency-Key": key });
  const both = [create({ name: "vm1" }), create({ name: "vm1" })];
  await new Promise((resolve) => setImmediate(resolve));
  gate.resolve();
  for (const response of [...(await Promise.all(both)), await create({ name: "vm1" })]) {
    assert.equal(response.status, 201);
    assert.deepEqual(await response.json(), DISK);
  }
  assert.equal(service.calls.length, 1);
  await refused(await create({ name: "vm2" }), 409, "exists", /another request/);
  await refused(await create({ name: "vm1" }, "a b"), 400, "invalid-argument", /Idempotency-Key/);
  assert.equal((await create({ name: "vm2" }, "k2")).status, 201);
  assert.equal(service.calls.length, 2);
});

test("an answer is kept for an hour, one that may be better later not at all", async () => {
  const clock = new ManualClock();
  const { service, call } = made({ clock });
  const create = () => call("POST", "/v1/disks", { name: "vm1" }, { "Idempotency-Key": "k" });
  service.before = () => {
    throw new StreamdiskError("source-lost", "The source is gone");
  };
  await refused(await create(), 503, "source-lost");
  service.before = () => {
    throw new StreamdiskError("refused", "Not there");
  };
  await refused(await create(), 403, "refused");
  service.before = () => {};
  await refused(await create(), 403, "refused");
  await clock.advance(60 * 60 * 1000);
  assert.equal((await create()).status, 201);
});
