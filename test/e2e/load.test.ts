/** What a daemon says of its guests: who they are, what they do, how long they wait. Real processes, real images. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { unixTransport } from "../../src/host/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { cliOk, noise, startCli, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

const KIB = 2 ** 10;
const SIZE = 8 * 2 ** 20;

test("a disk and an export tell of their clients, and a disk of its load", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  await daemon.start();
  const { client } = daemon;
  const base = join(daemon.images, "base.raw");
  writeFileSync(base, noise(SIZE, 5));
  const { uri: exported = "" } = await client.call("addExport", {
    body: { name: "base", image: base, format: "raw", listen: { port: 0 } },
  });
  const { uri = "" } = await client.call("createDisk", { body: { name: "vm1", backing: base, backingFormat: "raw" } });
  const disk = client.disk("vm1");
  assert.deepEqual([await disk.clients(), await disk.load()], [[], []]);

  await using reader = await connectNbd(exported);
  await reader.read(0, Buffer.alloc(16 * KIB));
  const { clients } = await client.call("exportClients", { params: { export: "base" } });
  assert.deepEqual(
    clients.map(({ reads, readBytes, writes, errors, tls }) => ({ reads, readBytes, writes, errors, tls })),
    [{ reads: 1, readBytes: 16 * KIB, writes: 0, errors: 0, tls: false }],
  );
  assert.match(clients[0]?.peer ?? "", /^127\.0\.0\.1:\d+$/);
  await assert.rejects(client.call("exportClients", { params: { export: "none" } }), { code: "not-found" });

  {
    await using guest = await connectNbd(uri);
    await guest.read(0, Buffer.alloc(64 * KIB));
    await guest.write(SIZE - 512, Buffer.alloc(512));
    await guest.flush();
    const [one, ...more] = await disk.clients();
    assert.deepEqual(
      [one?.peer, one?.reads, one?.writes, one?.flushes, one?.writtenBytes, more],
      ["unix", 1, 1, 1, 512, []],
    );
    assert.ok((one?.readLatency.p99Us ?? 0) > 0);
    const { env } = daemon;
    assert.match((await cliOk(["disk", "clients", "vm1"], { env })).stdout, /^CLIENT .*\nunix +\S+ \S+ +0 +1 +64 KiB/);
    const { stdout } = await cliOk(["export", "clients", "base", "--json"], { env });
    assert.equal((JSON.parse(stdout) as unknown[]).length, 1);
  }
  for (let samples = await disk.load(); samples.length === 0; samples = await disk.load()) await sleep(50);
  const samples = await disk.load();
  const sum = (field: "readBytes" | "fetchedBytes" | "writtenBytes") =>
    samples.reduce((all, sample) => all + sample[field], 0);
  assert.ok(sum("readBytes") > 0 || sum("writtenBytes") > 0);
  assert.deepEqual(await disk.load({ since: samples.at(-1)?.at ?? 0 }), []);
  // Those that have gone count on.
  const { traffic } = await disk.info();
  assert.deepEqual([traffic?.reads, traffic?.writes, traffic?.readBytes], [1, 1, 64 * KIB]);
});

test("what Prometheus is told moves, and is what it understands", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  await daemon.start();
  const { uri = "" } = await daemon.client.call("createDisk", { body: { name: "vm1", size: SIZE } });
  const before = await scrape(daemon.socket);
  await using guest = await connectNbd(uri);
  await guest.write(0, Buffer.alloc(64 * KIB));
  await guest.read(0, Buffer.alloc(4 * KIB));
  const after = await scrape(daemon.socket);
  const moved = (name: string): (number | undefined)[] => [before.get(name), after.get(name)];
  assert.deepEqual(moved('streamdisk_disk_written_bytes_total{disk="vm1"}'), [0, 64 * KIB]);
  assert.deepEqual(moved('streamdisk_disk_read_bytes_total{disk="vm1"}'), [0, 4 * KIB]);
  assert.deepEqual(moved('streamdisk_disk_clients{disk="vm1"}'), [0, 1]);
  const [none, latency = 0] = moved('streamdisk_disk_read_latency_seconds{disk="vm1",quantile="0.99"}');
  assert.ok(none === undefined && latency > 0 && latency < 60, String(latency));
  for (const name of ["process_resident_memory_bytes", "process_cpu_seconds_total"]) {
    assert.ok((after.get(name) ?? 0) > 0, name);
  }
  assert.notEqual(after.get('streamdisk_event_loop_lag_seconds{quantile="0.99"}'), undefined);
});

/** Asks as Prometheus does, and reads every line by the grammar of its text format. */
async function scrape(socket: string): Promise<ReadonlyMap<string, number>> {
  const { body, status } = await unixTransport(socket)({ method: "GET", path: "/metrics", headers: {} });
  assert.equal(status, 200);
  const found = new Map<string, number>();
  const types = new Map<string, string>();
  for (const line of (await new Response(body).text()).split("\n")) {
    const [, what, about = "", type = ""] = /^# (HELP|TYPE) ([a-z_]+) (.+)$/.exec(line) ?? [];
    if (what === "TYPE") types.set(about, type);
    if (line === "" || what !== undefined) continue;
    const sample = /^([a-z_]+)(?:\{(?:[a-z]+="[^"\n]*",?)+\})? (\S+)$/.exec(line);
    assert.ok(sample !== null, line);
    const [, name = "", value] = sample;
    assert.ok(Number.isFinite(Number(value)), line);
    assert.equal(types.get(name), name.endsWith("_total") ? "counter" : "gauge", line);
    found.set(line.slice(0, line.lastIndexOf(" ")), Number(value));
  }
  return found;
}

test("one disk is watched, and all disks at once, where there is no terminal", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  await daemon.start();
  const { client, env } = daemon;
  await client.call("createDisk", { body: { name: "vm1", size: SIZE } });
  const { stdout } = await cliOk(["top"], { env });
  assert.match(stdout, /1 disks, 0 of 4 streams.*\nDISK .*\nvm1 +stands alone +100%/);
  const [listed] = JSON.parse((await cliOk(["top", "--json"], { env })).stdout) as { name: string }[];
  assert.equal(listed?.name, "vm1");

  const said: Record<"plain" | "json", string[]> = { plain: [], json: [] };
  const watching = (["plain", "json"] as const).map((kind) => {
    const args = kind === "json" ? ["watch", "vm1", "--json"] : ["watch", "vm1"];
    return startCli(args, { env, onLine: (line) => void said[kind].push(line) });
  });
  while (said.plain.length === 0 || said.json.length === 0) await sleep(20);
  await client.disk("vm1").resize({ length: 2 * SIZE });
  await daemon.stop("SIGKILL");
  await daemon.start();
  await client.disk("vm1").resize({ length: 3 * SIZE });
  const seen = (lines: readonly string[]): boolean =>
    lines.filter((line) => line.includes("25165824 bytes")).length > 0;
  while (!seen(said.plain) || !seen(said.json)) await sleep(20);
  for (const { child } of watching) child.kill("SIGINT");
  const ends = await Promise.all(watching.map(({ ended }) => ended));
  for (const { exit, stderr } of ends) {
    assert.equal(exit, 130, stderr);
    assert.doesNotMatch(stderr, /Internal error/);
  }
  assert.equal(said.plain[0], "vm1: stands alone");
  const lines = said.json.map((line) => JSON.parse(line) as { disk?: { name: string }; event?: { id: number } });
  assert.equal(lines[0]?.disk?.name, "vm1");
  const ids = lines.flatMap(({ event }) => (event === undefined ? [] : [event.id]));
  assert.deepEqual(
    ids,
    [...new Set(ids)].sort((a, b) => a - b),
  );
});
