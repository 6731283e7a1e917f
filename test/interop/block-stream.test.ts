/** A disk that a real QEMU owns and fills by its own stream, since its NBD server is taken. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { DomainDisk } from "../../src/daemon/domain-disk.ts";
import { RunningDomain } from "../../src/domain/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { monitorThat } from "../support/monitor-that.ts";
import { qemuImg } from "../support/qemu.ts";
import { describedAs, type QemuDisk, type QemuDiskOptions, startQemuDisk } from "../support/qemu-disk.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;

async function withTakenServer(t: TestContext, options: Partial<QemuDiskOptions> = {}): Promise<QemuDisk> {
  const disk = await startQemuDisk(t, { format: "qcow2", ...options });
  await disk.qemu.execute("nbd-server-start", {
    addr: { type: "unix", data: { path: join(disk.directory, "theirs") } },
  });
  return disk;
}

test("a look at a disk that QEMU fills by itself tells how far that is", async (t) => {
  const { domain } = await withTakenServer(t);
  const disk = new DomainDisk(domain, "vda", { describe: async () => {}, remembered: () => [], onFallback: () => {} });
  assert.equal((await disk.info()).localBytes, 0);
  await disk.stream({ speed: 2 * MIB });
  t.after(() => disk.cancelStream());
  await until(async () => (await disk.info()).localBytes > 0);
  const { localBytes, missingBytes, hydrated } = await disk.info();
  assert.deepEqual([localBytes + missingBytes, hydrated], [16 * MIB, false]);
});

test("QEMU's own stream waits for a source that has died, and goes on with it", async (t) => {
  const disk = await withTakenServer(t);
  const stream = await disk.domain.stream("vda", { speed: 4 * MIB, retryFor: 60_000 });
  const running = stream.run();
  await until(async () => stream.progress.copiedBytes > 0);
  await disk.source.stop();
  await until(async () => stream.progress.state === "waiting");
  const { reason, offset } = stream.progress;
  assert.equal(reason?.code, "source-lost");
  assert.match(reason.message, /a read of its source failed/);
  assert.deepEqual([reason.offset, reason.retryIn], [offset, 250]);
  await until(async () => (stream.progress.reason?.retryIn ?? 0) > 250);
  await disk.source.start();
  stream.setSpeed(undefined);
  await running;
  assert.deepEqual([stream.progress.state, stream.progress.reason], ["completed", undefined]);
  await disk.qemu.kill();
  await disk.source.stop();
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", disk.image, disk.expected);
});

test("QEMU's own stream fails when a source stays away for too long, and can be cancelled while it waits", async (t) => {
  const { domain, source } = await withTakenServer(t);
  const stream = await domain.stream("vda", { speed: 4 * MIB, retryFor: 500 });
  const running = stream.run();
  const failed = assert.rejects(running, {
    code: "source-lost",
    message: /lacks: a read.*The stream stopped at \d+ of/,
  });
  await until(async () => stream.progress.copiedBytes > 0);
  await source.stop();
  await failed;
  assert.deepEqual([stream.progress.state, await domain.qmp.execute("query-jobs", {})], ["failed", []]);
  const patient = await domain.stream("vda", { retryFor: Number.POSITIVE_INFINITY });
  const cancelled = assert.rejects(patient.run(), /enough/);
  await until(async () => patient.progress.state === "waiting");
  patient.cancel(new Error("enough"));
  await cancelled;
  assert.deepEqual([patient.progress.state, await domain.qmp.execute("query-jobs", {})], ["cancelled", []]);
});

test("a daemon's stream that QEMU does begins anew when QEMU has not answered in time", async (t) => {
  const { directory } = await withTakenServer(t);
  const monitor = monitorThat(join(directory, "qmp"), { command: "block-stream", after: true }, () => {
    throw new StreamdiskError("io", "QEMU did not answer");
  });
  await using domain = new RunningDomain({ qmp: monitor, description: describedAs("vm"), socketDirectory: directory });
  const disk = new DomainDisk(domain, "vda", { describe: async () => {}, remembered: () => [], onFallback: () => {} });
  const waited: unknown[] = [];
  disk.on("progress", ({ state, reason }) => {
    if (state === "waiting") waited.push(reason?.code);
  });
  const ended = new Promise<void>((resolve, reject) => disk.on("hydrated", resolve).on("stream-failed", reject));
  await disk.stream({});
  await ended;
  assert.deepEqual(waited, ["io"]);
});
