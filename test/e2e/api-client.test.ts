/** The typed client against the API's own server, on a Unix socket and over TCP; the disks behind it are fakes. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { DaemonClient, type Event, fetchTransport } from "../../src/client/index.ts";
import { httpApp } from "../../src/daemon/http-app.ts";
import { serveTcp, serveUnix } from "../../src/daemon/http-server.ts";
import { noLog } from "../../src/daemon/log.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { unixTransport } from "../../src/host/index.ts";
import { DISK, FakeFeed, fakeService, fakeWatch, JOB, LIVE } from "../support/fake-service.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-client-"));
after(() => rmSync(directory, { recursive: true }));
const ACCESS = { token: "right" };
let count = 0;

async function started(events = new FakeFeed(), path = join(directory, `${count++}.sock`)) {
  const closing = new AbortController();
  const service = fakeService();
  const app = httpApp(service, { events, watch: fakeWatch, access: ACCESS, log: noLog, closing: closing.signal });
  const server = await serveUnix(app, { path });
  const stop = async (): Promise<void> => {
    closing.abort();
    await server.close(1000);
  };
  return { service, events, app, path, client: new DaemonClient(unixTransport(path)), stop };
}

test("a disk's verbs arrive as the calls that they are", async () => {
  const { service, client, stop } = await started();
  const disk = client.disk("vm1");
  assert.deepEqual(await disk.info(), DISK);
  assert.deepEqual(await disk.stream({ speed: 5 }), JOB);
  assert.deepEqual(await disk.step({ offset: 1, length: 2 }), { next: 512, copied: 512, done: false });
  for (const verb of ["pause", "resume", "cancel", "streamInfo"] as const) assert.deepEqual(await disk[verb](), JOB);
  await disk.setSpeed(null);
  await disk.resize({ length: 10 });
  await disk.replaceSource({ backing: "/other" });
  assert.equal(await disk.delete({ deleteFile: true }), undefined);
  await client.call("listDisks", { query: { limit: 3, hydrated: true } });
  const got = service.calls.map(({ name, input }) => [name, { ...input.params, ...input.query, ...input.body }]);
  assert.deepEqual(got, [
    ["getDisk", { disk: "vm1" }],
    ["startStream", { disk: "vm1", speed: 5, priority: 0 }],
    ["stepStream", { disk: "vm1", offset: 1, length: 2 }],
    ["pauseStream", { disk: "vm1" }],
    ["resumeStream", { disk: "vm1" }],
    ["cancelStream", { disk: "vm1" }],
    ["streamInfo", { disk: "vm1" }],
    ["setSpeed", { disk: "vm1", speed: null }],
    ["resizeDisk", { disk: "vm1", length: 10, shrink: false }],
    ["replaceSource", { disk: "vm1", backing: "/other", force: false }],
    ["deleteDisk", { disk: "vm1", deleteFile: true }],
    ["listDisks", { limit: 3, hydrated: true }],
  ]);
  await stop();
});

test("a map in cells comes as bytes", async () => {
  const { client, stop } = await started();
  const { local, missing, ...rest } = await client.disk("vm1").cells({ count: 7 });
  assert.deepEqual([[...local], [...missing], rest], [[255], [0], { offset: 0, cellLength: 512, complete: true }]);
  await stop();
});

test("what goes on in a disk is followed over the end of its line", async () => {
  const { client, stop } = await started();
  const seen: string[] = [];
  const options = { retryMs: 1, onOpen: () => void seen.push("open"), onLost: () => void seen.push("lost") };
  for await (const live of client.disk("vm1").live(options)) {
    assert.deepEqual(live, LIVE);
    seen.push("live");
    if (seen.length > 4) break;
  }
  assert.deepEqual(seen, ["open", "live", "lost", "open", "live"]);
  await stop();
});

test("a map is read page by page", async () => {
  const { client, service, stop } = await started();
  const run = { start: 0, length: 512, depth: 0, present: true, zero: false, data: true, missing: false };
  Object.assign(service, {
    diskMap: async ({ query }: { query: { offset: number } }) => ({
      runs: [{ ...run, start: query.offset }],
      ...(query.offset < 1024 && { next: query.offset + 512 }),
    }),
  });
  const starts: number[] = [];
  for await (const { start } of client.disk("vm1").map()) starts.push(start);
  assert.deepEqual(starts, [0, 512, 1024]);
  await stop();
});

test("an error of the daemon is the same error here", async () => {
  const { client, service, stop } = await started();
  service.before = () => {
    throw new StreamdiskError("not-found", "There is no disk 'vm1'", { node: "vm1" });
  };
  const here = {
    name: "StreamdiskError",
    code: "not-found",
    message: "There is no disk 'vm1'",
    context: { node: "vm1" },
  };
  await assert.rejects(client.disk("vm1").info(), here);
  await assert.rejects(client.disk("../vm1").info(), {
    code: "invalid-argument",
    message: /^Field 'disk' of the path/,
  });
  await assert.rejects(client.disk("").info(), { code: "not-found" });
  await stop();
  await assert.rejects(client.disk("vm1").info(), {
    code: "source-lost",
    message: /^No daemon listens at .*streamdisk daemon/,
  });
});

test("an idempotency key acts once", async () => {
  const { client, service, stop } = await started();
  const input = { body: { name: "vm1" } };
  for (let i = 0; i < 2; i++) assert.deepEqual(await client.call("createDisk", input, { idempotencyKey: "k" }), DISK);
  assert.equal(service.calls.length, 1);
  const other = client.call("createDisk", { body: { name: "vm2" } }, { idempotencyKey: "k" });
  await assert.rejects(other, { code: "exists" });
  await stop();
});

test("a call ends when its signal says so", async () => {
  const { client, service, stop } = await started();
  const gate = Promise.withResolvers<void>();
  service.before = () => gate.promise;
  const going = new AbortController();
  const call = client.call("daemon", {}, { signal: going.signal });
  going.abort(new Error("enough"));
  await assert.rejects(call, { message: "enough" });
  gate.resolve();
  await stop();
});

test("something else at the address is no daemon", async () => {
  const path = join(directory, "other.sock");
  const server = createServer((_, response) => response.end("<h1>It works</h1>")).listen(path);
  const client = new DaemonClient(unixTransport(path));
  await assert.rejects(client.call("daemon", {}), { code: "protocol" });
  await assert.rejects(client.call("createDisk", { body: { name: "a" } }), { code: "protocol" });
  server.close();
});

test("whoever watches misses nothing while the daemon is restarted, and gets nothing twice", async () => {
  const first = await started();
  first.events.add("vm1");
  const stopWatching = new AbortController();
  const lost: unknown[] = [];
  const seen: number[] = [];
  const watching = (async () => {
    const options = { signal: stopWatching.signal, retryMs: 5, onLost: (why: unknown) => lost.push(why) };
    for await (const event of first.client.disk("vm1").watch(options)) seen.push(event.id);
  })();
  const until = async (id: number): Promise<void> => {
    while (seen.at(-1) !== id) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  while (first.events.following === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  first.events.add("vm1");
  await until(2);
  await first.stop();
  first.events.add("vm1");
  first.events.add("vm2");
  first.events.add("vm1");
  const second = await started(first.events, first.path);
  await until(5);
  second.events.add("vm1");
  await until(6);
  assert.deepEqual(seen, [2, 3, 5, 6]);
  assert.ok(lost.length >= 1);
  stopWatching.abort();
  await watching;
  await second.stop();
});

test("a watch that has seen nothing yet misses nothing either", async () => {
  const first = await started();
  for (let i = 0; i < 3; i++) first.events.add();
  const iterator = first.client.watch({ retryMs: 5 });
  const next = iterator.next();
  while (first.events.following === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await first.stop();
  first.events.add();
  const second = await started(first.events, first.path);
  const { value } = (await next) as { value: Event };
  assert.equal(value.id, 4);
  await iterator.return();
  await second.stop();
});

test("a watch of all events can begin in the past, and ends when the reader has enough", async () => {
  const { client, events, stop } = await started();
  for (let i = 0; i < 5; i++) events.add();
  const ids: number[] = [];
  for await (const { id } of client.watch({ after: 2 })) {
    ids.push(id);
    if (id === 5) break;
  }
  assert.deepEqual(ids, [3, 4, 5]);
  while (events.following > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await stop();
});

test("over TCP the token is shown, and a watch that is refused says so", async () => {
  const { app, stop } = await started();
  const server = await serveTcp(app, { host: "127.0.0.1", port: 0 }, ACCESS);
  const client = (token: string) => new DaemonClient(fetchTransport(server.address, { token }));
  assert.equal((await client("right").call("daemon", {})).version, "9.9.9");
  await assert.rejects(client("wrong").call("daemon", {}), { code: "permission" });
  await assert.rejects(client("wrong").watch().next(), { code: "permission" });
  await server.close(1000);
  await assert.rejects(client("right").call("daemon", {}), { code: "source-lost" });
  await stop();
});
