/** Whoever may not: a walk over a real daemon that listens on TCP, by every way in that its API has. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ROUTES, type RouteParts } from "../../src/api/index.ts";
import { noise, peer, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { serveRanges } from "../support/http-server.ts";
import { makeCertificates } from "../support/tls-files.ts";

const MIB = 2 ** 20;
const SLOW_CLIENTS = 40;

class Walk implements AsyncDisposable {
  readonly directory: string;
  readonly daemon: DaemonProcess;
  port = 0;
  token = "";

  constructor(t: TestContext, args: readonly string[] = []) {
    this.directory = temporaryDirectory(t);
    this.daemon = new DaemonProcess(this.directory, ["--port", "0", ...args]);
  }

  async start(): Promise<void> {
    const [, url = ""] = await this.daemon.start();
    this.port = Number(new URL(url).port);
    this.token = readFileSync(join(this.daemon.state, "token"), "utf8").trim();
  }

  /** Sends a path as it is, which `fetch` would tidy up. */
  async send(method: string, path: string, headers: Record<string, string>): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const sent = request({ host: "127.0.0.1", port: this.port, method, path, headers, agent: false }, (reply) => {
        text(reply).then((body) => resolve({ status: reply.statusCode ?? 0, body }), reject);
      });
      sent.once("error", reject);
      sent.end();
    });
  }

  async types(): Promise<string[]> {
    const { events } = await this.daemon.client.call("listEvents", { query: { limit: 1000 } });
    return events.map(({ type }) => type);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.daemon[Symbol.asyncDispose]();
  }
}

/** Every path of the API with its methods. */
const WAYS = Object.values<RouteParts>(ROUTES).map(({ method, path }) => ({
  method,
  path: path.replaceAll(/\{\w+\}/g, "vm1"),
}));

test("no way in is open to whoever has no token, a wrong one, another name for the daemon, or a foreign page", async (t) => {
  await using walk = new Walk(t);
  await walk.start();
  await walk.daemon.client.call("createDisk", { body: { name: "vm1", size: MIB } });
  const before = await walk.types();
  const own = `127.0.0.1:${walk.port}`;
  const right = { Authorization: `Bearer ${walk.token}` };
  const strangers: readonly (readonly [number, Record<string, string>])[] = [
    [401, { Host: own }],
    [401, { Host: own, Authorization: `Bearer ${walk.token.slice(0, -1)}` }],
    [401, { Host: own, Authorization: `Basic ${walk.token}` }],
    [401, { Host: own, Cookie: `token=${walk.token}` }],
    [403, { Host: `rebound.example:${walk.port}`, ...right }],
    [403, { Host: own, Origin: "https://evil.example", ...right }],
    [403, { Host: own, Origin: "null", ...right }],
  ];
  const ways = [...WAYS, { method: "GET", path: "/metrics" }, { method: "GET", path: "/v1/openapi.json" }];
  for (const { method, path } of ways) {
    for (const [status, headers] of strangers) {
      const reply = await walk.send(method, path, headers);
      assert.equal(reply.status, status, `${method} ${path} ${JSON.stringify(headers)}: ${reply.body}`);
      assert(!reply.body.includes(walk.token));
    }
  }
  assert.deepEqual(await walk.types(), before, "nothing has happened");
  assert.equal((await walk.send("GET", "/v1/daemon", { Host: own, ...right })).status, 200);
});

test("no path and no name leads out of the API", async (t) => {
  await using walk = new Walk(t);
  await walk.start();
  const headers = { Host: `127.0.0.1:${walk.port}`, Authorization: `Bearer ${walk.token}` };
  const climbs = [
    "..",
    "%2e%2e",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cetc",
  ];
  const paths = climbs.flatMap((climb) => [
    ...["/v1/disks/", "/v1/exports/", "/", "/assets/"].map((start) => `${start}${climb}`),
    ...["/", "/assets/"].map((start) => `${start}${climb}/${climb}/${climb}/etc/passwd`),
  ]);
  for (const path of [...paths, "//etc/passwd", "/etc/passwd", "/v1/disks/vm1%00", "/v1/disks//map"]) {
    for (const method of ["GET", "DELETE"]) {
      const { status, body } = await walk.send(method, path, headers);
      assert(!body.includes("root:"), `${method} ${path}: ${body}`);
      // What climbs no further than the root may be the page.
      assert(status >= 400 || (method === "GET" && body.includes("<html")), `${method} ${path}: ${status} ${body}`);
    }
  }
});

test("no image, no backing reference and no key outside of what is allowed is opened", async (t) => {
  const keys = join(temporaryDirectory(t), "keys");
  await using walk = new Walk(t, ["--allow-keys", keys]);
  await walk.start();
  const { client, images } = walk.daemon;
  makeCertificates(keys);
  writeFileSync(join(images, "base.raw"), noise(MIB, 1));
  symlinkSync("/etc", join(images, "link"));
  const inner = join(images, "inner.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", inner, "1M");
  const outer = join(images, "outer.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "inner.qcow2", "-F", "qcow2", outer, "1M");
  const before = await walk.types();
  const refused = { code: "refused" };
  const create = (body: object) => client.call("createDisk", { body: { name: "a", ...body } });
  for (const backing of [
    "/etc/passwd",
    "/proc/self/environ",
    join(walk.daemon.state, "token"),
    join(images, "link/passwd"),
  ]) {
    await assert.rejects(create({ backing, backingFormat: "raw" }), refused, backing);
  }
  for (const backing of [
    "http://127.0.0.1:1/x",
    "nbd://127.0.0.1/x",
    `file:///${images}/../state/token`,
    inner,
    outer,
  ]) {
    await assert.rejects(create({ backing }), refused, backing);
  }
  await assert.rejects(create({ image: "/etc/a.qcow2", size: MIB }), refused);
  await assert.rejects(create({ image: outer, adopt: true }), refused);
  const image = join(images, "base.raw");
  const offer = (body: object) => client.call("addExport", { body: { name: "e", image, format: "raw", ...body } });
  const inImages = join(images, "keys");
  mkdirSync(inImages);
  for (const tlsCertificates of ["/etc/ssl", join(keys, ".."), inImages, join(keys, "../../etc")]) {
    await assert.rejects(offer({ tlsCertificates }), refused, tlsCertificates);
  }
  await assert.rejects(offer({ tlsPskFile: "/etc/shadow" }), refused);
  await assert.rejects(offer({ listen: { socket: "/etc/e.sock" } }), refused);
  await assert.rejects(create({ backing: join(keys, "server-key.pem"), backingFormat: "raw" }), refused);
  assert.deepEqual(await walk.types(), before, "nothing has happened");
  assert.match((await offer({ listen: { port: 0 }, tlsCertificates: keys })).uri ?? "", /^nbds:/);
});

test("keys where images may lie are refused, though they are allowed", async (t) => {
  const directory = temporaryDirectory(t);
  const keys = join(directory, "images/keys");
  await using daemon = new DaemonProcess(directory, ["--allow-keys", keys]);
  await daemon.start();
  makeCertificates(keys);
  const image = join(daemon.images, "base.raw");
  writeFileSync(image, noise(MIB, 1));
  const body = { name: "e", image, format: "raw" as const, tlsCertificates: keys };
  await assert.rejects(daemon.client.call("addExport", { body }), { code: "refused", message: /read as an image/ });
});

test("what gives access to a source, and to the API, is in no log, event, answer or error", async (t) => {
  await using far = await serveRanges("open-sesame");
  const origin = new URL(far.origin);
  const allow = `${origin.protocol}//vera:hush@${origin.host}/`;
  await using walk = new Walk(t, ["--log-level", "debug", "--allow", `${far.origin}/`, "--allow", allow]);
  await walk.start();
  const { client, images } = walk.daemon;
  const base = join(images, "base.raw");
  writeFileSync(base, noise(16 * MIB, 1));
  const backing = `${allow}${base.slice(1)}?token=open-sesame`;
  const answers: unknown[] = [];
  answers.push(
    await client.call("createDisk", { body: { name: "vm1", backing, backingFormat: "raw", stream: { speed: MIB } } }),
  );
  answers.push(await client.call("listSources", {}));
  await far[Symbol.asyncDispose]();
  while (!(await walk.types()).includes("source-lost")) await sleep(50);
  answers.push(await client.disk("vm1").info());
  answers.push(
    await client.call("createDisk", { body: { name: "vm2", backing } }).catch((error: Error) => error.message),
  );
  answers.push(await client.call("listEvents", { query: { limit: 1000 } }), await client.call("listJobs", {}));
  const headers = { Host: `127.0.0.1:${walk.port}`, Authorization: `Bearer ${walk.token}` };
  answers.push(await walk.send("GET", "/metrics", headers));
  const { stderr = "", stdout = "" } = (await walk.daemon.stop()) ?? {};
  assert.match(stderr, /"msg":"Request"/, "there is a log");
  const said = `${JSON.stringify(answers)}${stderr}${stdout}`;
  for (const secret of ["hush", "open-sesame", walk.token])
    assert(!said.includes(secret), said.slice(said.indexOf(secret) - 400));
});

test("clients that are slow, or send too much, are in nobody's way", async (t) => {
  await using walk = new Walk(t);
  await walk.start();
  const head = `POST /v1/disks HTTP/1.1\r\nHost: 127.0.0.1:${walk.port}\r\nAuthorization: Bearer ${walk.token}\r\n`;
  const body = `${head}Content-Type: application/json\r\n`;
  const starts = [
    "POST /v1",
    head,
    `${body}Content-Length: 1000\r\n\r\n{`,
    `${body}Transfer-Encoding: chunked\r\n\r\n5\r\n{`,
  ];
  const slow = Array.from({ length: SLOW_CLIENTS }, (_, index) => {
    const socket = connect(walk.port, "127.0.0.1").on("error", () => {});
    socket.write(starts[index % starts.length]!);
    return socket;
  });
  t.after(() => {
    for (const socket of slow) socket.destroy();
  });
  const huge = connect(walk.port, "127.0.0.1").on("error", () => {});
  huge.write(`${body}Content-Length: ${2 ** 40}\r\n\r\n{`);
  assert.match(await text(huge), /^HTTP\/1\.1 413 /);
  const headers = { Host: `127.0.0.1:${walk.port}`, Authorization: `Bearer ${walk.token}` };
  for (let i = 0; i < 20; i++) assert.equal((await walk.send("GET", "/v1/daemon", headers)).status, 200);
  await walk.daemon.client.call("createDisk", { body: { name: "vm1", size: MIB } });
});
