/** Domains of the daemon and their commands as users meet them: real processes, a real QEMU. */
import assert from "node:assert/strict";
import { copyFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { assertFails, type CliEnd, cli, cliOk, startCli } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { qemuImg, startMonitored } from "../support/qemu.ts";
import { type QemuDisk, startQemuDisk, virtioDisk } from "../support/qemu-disk.ts";
import { until } from "../support/until.ts";

/** A daemon and a QEMU beside it. */
async function scene(t: TestContext) {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const daemon = new DaemonProcess(join(disk.directory, "daemon"));
  t.after(() => daemon[Symbol.asyncDispose]());
  await daemon.start();
  const options = { env: daemon.env, cwd: disk.directory };
  const ok = (...args: string[]): Promise<CliEnd> => cliOk(args, options);
  const json = async <T>(...args: string[]): Promise<T> => JSON.parse((await ok(...args, "--json")).stdout) as T;
  const fails = (...args: string[]): Promise<CliEnd> => cli(args, options);
  const job = async () => (await daemon.client.call("listJobs", {})).jobs[0]!;
  return { disk, daemon, ok, json, fails, job };
}

async function mustStandAlone({ qemu, source, image, expected, directory }: QemuDisk): Promise<void> {
  await qemu.kill();
  await source.stop();
  rmSync(join(directory, "base.raw"));
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, expected);
}

test("a domain is added, shown, streamed, and left alone", async (t) => {
  const { disk, ok, json, fails } = await scene(t);
  const added = await ok("domain", "add", "web", "--qmp", "qmp");
  assert.match(added.stdout, /^state: prelaunch$/m);
  assert.match(added.stdout, /^vda +virtio-disk0 +qcow2 .*disk.qcow2 +nbd\+unix:/m);
  assert.match((await ok("domain", "ls")).stdout, /^web +prelaunch +- +vda /m);
  assert.match((await ok("source", "ls")).stdout, /^nbd\+unix:\S+ .* domain web$/m);
  assert.match((await ok("domain", "dumpxml", "web")).stdout, /<alias name='virtio-disk0'\/>/);
  assert.match((await ok("info", "web:vda")).stdout, /^missing: 15.9 MiB \(/m);
  assertFails(await fails("info", "web:vdb"), 66, /has no disk 'vdb': it has vda \(virtio-disk0\)/);
  assertFails(await fails("info", "web:drive-virtio-disk0"), 64, /write 'web:virtio-disk0' or 'web:vda'/);
  assertFails(await fails("stream", "db:vda"), 66, /There is no domain 'db': there are web/);
  const map = (await ok("map", "web:vda")).stdout.split("\n");
  assert.match(map[1] ?? "", /^0 +0x10000 +missing +- +-$/);
  assert.match(map[2] ?? "", /^0x10000 +0x20000 +local +- +0$/);
  assert.match((await ok("info", `web:${disk.image}`)).stdout, /^disk: web:vda \(virtio-disk0\)$/m);
  assertFails(await fails("pause", "web:/none.qcow2"), 66, /has no disk '\/none.qcow2'/);
  const step = await ok("stream", "web:virtio-disk0", "--step", "--length", "2M");
  assert.equal(step.stdout, "65536\n", "the next one is local");
  assert.match((await ok("stream", "web:virtio-disk0")).stdout, /^'web:vda' stands alone now: /);
  const { hydrated, missingBytes } = await json<{ hydrated: boolean; missingBytes: number }>("info", "web:vda");
  assert.deepEqual([hydrated, missingBytes], [true, 0]);
  assert.doesNotMatch((await ok("events")).stdout, /stream-fallback/);
  await until(async () => /source-free .*'nbd\+unix:/.test((await ok("events")).stdout));
  assert.match((await ok("source", "ls")).stdout, /No disk, export or machine of the daemon has a source/);
  await ok("domain", "rm", "web");
  assert.match((await ok("domain", "ls")).stdout, /There are no domains/);
  await mustStandAlone(disk);
});

test("a stream of a domain's disk is paused, goes on over kill -9 of the daemon, and is made faster", async (t) => {
  const { disk, daemon, ok, job } = await scene(t);
  const xml =
    "<domain><name>x</name><devices><disk><target dev='sdx'/><alias name='virtio-disk0'/></disk></devices></domain>";
  writeFileSync(join(disk.directory, "web.xml"), xml);
  await ok("domain", "add", "web", "--qmp", "qmp", "--xml", "web.xml");
  await ok("stream", "web:sdx", "--speed", "512K", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await ok("pause", "web:sdx");
  assert.equal((await job()).state, "paused");
  assert.match((await ok("top")).stdout, /^web:sdx +prelaunch +paused +\d+% /m);
  const lines: string[] = [];
  const watching = startCli(["watch", "web:sdx"], { env: daemon.env, onLine: (line) => lines.push(line) });
  await until(async () => lines.length > 3);
  watching.child.kill("SIGINT");
  await watching.ended;
  assert.match(lines[0] ?? "", /^web:sdx: machine prelaunch, stream paused$/);
  await ok("resume", "web:virtio-disk0");
  await daemon.stop("SIGKILL");
  await daemon.start();
  await until(async () => (await job()).state === "running");
  await ok("speed", "web:sdx", "max");
  assert.match((await ok("stream", "web:sdx")).stdout, /'web:sdx' stands alone now/);
  await until(async () => (await job()).state === "completed");
  await mustStandAlone(disk);
});

test("a stream waits for a QEMU that is away, and goes on when it is back", async (t) => {
  const { disk, ok, job, daemon } = await scene(t);
  await ok("domain", "add", "web", "--qmp", "qmp");
  await ok("stream", "web:vda", "--speed", "512K", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await disk.qemu.kill();
  await until(async () => (await job()).state === "waiting");
  assert.match((await job()).reason?.message ?? "", /QEMU of 'web:vda' has ended|no QEMU listens there any more/);
  assert.equal((await daemon.client.call("getDomain", { params: { domain: "web" } })).state, "unreachable");
  assert.match((await ok("info", "web:vda")).stdout, /^as last known, since: .*no QEMU listens there/m);
  await ok("speed", "web:vda", "max");
  const qmp = join(disk.directory, "qmp");
  const again = await startMonitored(qmp, ...virtioDisk(disk.image, "qcow2"));
  t.after(() => again.kill());
  await until(async () => (await job()).state === "completed");
  await again.kill();
  await mustStandAlone(disk);
});

test("QEMU's own stream has to do when its NBD server is taken: an event says so", async (t) => {
  const { disk, ok } = await scene(t);
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  await ok("domain", "add", "web", "--qmp", "qmp");
  await ok("stream", "web:vda");
  assert.match((await ok("events")).stdout, /stream-fallback +QEMU's own block-stream fills 'web:vda', which is slow/);
  await mustStandAlone(disk);
});

test("a source that has died is replaced by another, and the stream that waited for it goes on", async (t) => {
  const { disk, daemon, ok, fails, job } = await scene(t);
  await ok("domain", "add", "web", "--qmp", "qmp");
  await ok("stream", "web:vda", "--speed", "1M", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await disk.source.stop();
  await until(async () => (await job()).state === "waiting");
  const { copiedBytes, missingBytes } = await job();
  assert.ok(copiedBytes > 0);
  const info = (await ok("info", "web:vda")).stdout;
  assert.match(
    info,
    new RegExp(`^missing: .* \\(${missingBytes} bytes\\)\nas last known, since: .*EIO.*\nstream: waiting`, "m"),
  );
  const moved = join(daemon.images, "moved.raw");
  copyFileSync(join(disk.directory, "base.raw"), moved);
  const order = ["disk", "replace-source", "web:virtio-disk0"];
  assertFails(await fails(...order, "http://127.0.0.1:9/x.raw"), 77, /may not open 'http:.*--allow/);
  assertFails(await fails(...order, "./none.raw"), 77, /may not open/);
  const replaced = await ok(...order, moved, "--backing-format", "raw");
  assert.match(replaced.stdout, /^'web:vda' comes from '.*moved.raw' now\n$/);
  await ok("speed", "web:vda", "max");
  await until(async () => (await job()).state === "completed");
  assert.match(
    (await ok("events")).stdout,
    /disk-changed +The source of 'web:vda' is now '.*moved.raw' \(\d+ bytes were compared/,
  );
  rmSync(moved);
  await mustStandAlone(disk);
});

test("a disk of the daemon is put into a machine that runs, and one that takes none says so", async (t) => {
  const { disk, daemon, ok, fails } = await scene(t);
  copyFileSync(join(disk.directory, "base.raw"), join(daemon.images, "data.raw"));
  await ok("disk", "create", "data", "--backing", join(daemon.images, "data.raw"));
  writeFileSync(
    join(disk.directory, "web.xml"),
    "<domain><name>x</name><devices><disk><target dev='vda'/><alias name='virtio-disk0'/></disk></devices></domain>",
  );
  await ok("domain", "add", "web", "--qmp", "qmp", "--xml", "web.xml");
  assert.equal((await ok("domain", "attach", "web", "data")).stdout, "'data' is 'web:vdb' now\n");
  assert.match((await ok("domain", "show", "web")).stdout, /^vdb +hot-vdb +raw +nbd\+unix:.*data\.sock/m);
  assert.match((await ok("events")).stdout, /disk-attached +The disk 'data' was attached to the machine as 'web:vdb'/);
  assertFails(await fails("domain", "attach", "web", "data", "--target", "vda"), 73, /has a disk 'vda'/);
  assertFails(await fails("domain", "attach", "web", "nothing"), 66, /There is no disk 'nothing'/);
  assertFails(await fails("domain", "detach", "web", "vda"), 66, /only what 'domain attach' put in/);

  const qmp = join(disk.directory, "q35");
  const other = await startMonitored(qmp, "-machine", "q35");
  t.after(() => other.kill());
  await ok("domain", "add", "q35", "--qmp", qmp);
  assertFails(await fails("domain", "attach", "q35", "data"), 77, /takes no disk while it runs: .*pcie-root-port/);
  const nodes = (await other.execute("query-named-block-nodes")) as unknown[];
  assert.deepEqual(nodes, [], "what was begun is undone");
});
