/** A disk that a real QEMU owns, filled through its NBD server and taken off its source. */
import assert from "node:assert/strict";
import { readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type DomainStream, describeDomain } from "../../src/domain/index.ts";
import type { StreamProgress } from "../../src/stream/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { type QemuDisk, startQemuDisk } from "../support/qemu-disk.ts";
import { sample } from "../support/seed.ts";

const MIB = 2 ** 20;

/** The image needs nothing but itself, and holds what it should. */
async function mustStandAlone({ image, expected, source, directory }: QemuDisk, format: string): Promise<void> {
  await source.stop();
  rmSync(join(directory, "base.raw"));
  // A kill leaks clusters at most.
  qemuImg("check", "-q", "-r", "leaks", "-f", format, image);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
}

/** Nothing of ours is in QEMU. */
async function mustBeClean({ domain, directory }: QemuDisk): Promise<void> {
  assert.deepEqual(await domain.qmp.execute("query-block-exports", {}), []);
  assert.deepEqual(await domain.qmp.execute("query-jobs", {}), []);
  assert.deepEqual(
    readdirSync(directory).filter((name) => name.startsWith("streamdisk")),
    [],
  );
}

const CELLS = [
  { format: "qcow2", copyOnRead: false },
  { format: "qcow2", copyOnRead: true },
  { format: "qed", copyOnRead: false },
  { format: "qed", copyOnRead: true },
] as const;

for (const { format, copyOnRead } of sample("qemu disk", CELLS, 2)) {
  test(`${format}${copyOnRead ? " below a filter" : ""} is filled, and stands alone after a kill right at the end`, async (t) => {
    const disk = await startQemuDisk(t, { format, copyOnRead, delay: 5 });
    const before = await disk.domain.tally("vda");
    // QEMU has looked at the beginning of the disk already, through the filter.
    assert.equal(before.local, (copyOnRead ? 192 : 128) * 1024);
    assert.equal(before.missing, 16 * MIB - before.local);
    const stream = await disk.domain.stream("virtio-disk0");
    assert.equal(stream.method, "fill");
    const all: StreamProgress[] = [];
    for await (const progress of stream) all.push(progress);
    await disk.qemu.kill();
    const last = all.at(-1)!;
    assert.deepEqual([last.state, last.missingBytes, last.warnings], ["completed", 0, []]);
    await mustStandAlone(disk, format);
  });
}

test("a domain that has no XML is described as QEMU has it", async (t) => {
  const near = relative(process.cwd(), join(temporaryDirectory(t), "near.raw"));
  writeFileSync(near, Buffer.alloc(512));
  const more = ["-blockdev", "null-co,node-name=null,read-zeroes=on", "-device", "ide-hd,drive=null"];
  more.push(
    "-blockdev",
    `raw,node-name=near,file.driver=file,file.filename=${near}`,
    "-device",
    "virtio-blk-pci,drive=near,id=near",
  );
  const { domain, image, source } = await startQemuDisk(t, {
    ...{ format: "qed", copyOnRead: true, args: [...more, "-device", "ide-cd,id=cd", "-name", "guest=web"] },
  });
  const described = await describeDomain(domain.qmp, "vm");
  const socket = /socket=(.*)/.exec(source.uri)?.[1];
  assert.deepEqual(described, {
    name: "web",
    disks: [
      {
        ...{ target: "vda", bus: "virtio", alias: "virtio-disk0", device: "disk", readOnly: false, format: "qed" },
        source: { kind: "file", path: image },
        backing: [{ format: "raw", source: { kind: "network", protocol: "nbd", name: "", hosts: [{ socket }] } }],
      },
      {
        ...{ target: "sda", bus: "sata", device: "disk", readOnly: false, format: "null-co", backing: [] },
        source: { kind: "other", type: "null-co" },
      },
      {
        ...{ target: "vdb", bus: "virtio", alias: "near", device: "disk", readOnly: false, format: "raw", backing: [] },
        source: { kind: "file", path: near },
      },
      { target: "sdb", bus: "sata", alias: "cd", device: "cdrom", readOnly: false, backing: [] },
    ],
  });
});

test("after a stream nothing of it is left in QEMU, and there is nothing more to do", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  await (await disk.domain.stream("vda")).run();
  await mustBeClean(disk);
  const again = await disk.domain.stream("vda");
  await again.run();
  assert.equal(again.progress.copiedBytes, 0);
  await mustBeClean(disk);
});

/** Starts a slow stream and waits until it has fetched something. @returns its end, whatever that is */
async function halfWay(stream: DomainStream): Promise<{ ended: Promise<unknown> }> {
  const running = stream.run();
  const ended = running.then(
    () => undefined,
    (error: unknown) => error,
  );
  while (stream.progress.copiedBytes === 0 && stream.progress.state !== "failed") await sleep(10);
  return { ended };
}

const SLOW = { speed: 2 * MIB };

test("steps fill it too, and the last one takes it off its source", async (t) => {
  const disk = await startQemuDisk(t, { format: "qed" });
  let offset = 0;
  for (let steps = 1; ; steps++) {
    const { next, done } = await disk.domain.step("vda", { offset, length: 5 * MIB });
    offset = next;
    if (!done) continue;
    assert.equal(steps, 5);
    break;
  }
  await mustBeClean(disk);
  await disk.qemu.kill();
  await mustStandAlone(disk, "qed");
});

test("a QEMU whose NBD server is somebody else's streams by itself, and says so", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  const stream = await disk.domain.stream("vda", { speed: 64 * MIB });
  assert.equal(stream.method, "block-stream");
  const said =
    "QEMU's own block-stream fills 'vm:vda', which is slow: QEMU's NBD server is in use by somebody else, and a QEMU has only one";
  assert.deepEqual(stream.progress.warnings, [said]);
  const all: StreamProgress[] = [];
  for await (const progress of stream) all.push(progress);
  await disk.qemu.kill();
  assert.deepEqual([all.at(-1)!.state, all.at(-1)!.missingBytes], ["completed", 0]);
  assert.deepEqual(all.at(-1)!.warnings, [said]);
  await mustStandAlone(disk, "qcow2");
});

test("QEMU's own stream survives a kill right at its end too", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  disk.domain.qmp.onEvent(({ name }) => {
    if (name === "BLOCK_JOB_COMPLETED") void disk.qemu.kill();
  });
  const stream = await disk.domain.stream("vda");
  await stream.run().catch((error) => assert.equal(error.code, "shutdown"));
  await disk.qemu.kill();
  await mustStandAlone(disk, "qcow2");
});

test("a job that somebody cancels ends the stream with that reason", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  const { ended } = await halfWay(await disk.domain.stream("vda", SLOW));
  const [job] = await disk.domain.qmp.execute("query-jobs", {});
  await disk.qemu.execute("block-job-cancel", { device: job?.id });
  const error = (await ended) as Error & { code: string };
  assert.equal(error.code, "refused");
  assert.match(error.message, /QEMU's stream of 'vm:vda' stopped: somebody has cancelled it/);
  await mustBeClean(disk);
});

test("what a process that died has left in QEMU is taken away by the next", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const left = { type: "unix", data: { path: join(disk.directory, "left") } };
  await disk.qemu.execute("nbd-server-start", { addr: left });
  await disk.qemu.execute("block-export-add", { type: "nbd", id: "streamdisk-fill-dead", "node-name": "top" });
  await disk.qemu.execute("block-stream", {
    ...{ "job-id": "streamdisk-stream-dead", device: "top", speed: 1, "auto-finalize": false, "auto-dismiss": false },
  });
  const stream = await disk.domain.stream("vda");
  assert.equal(stream.method, "fill");
  await stream.run();
  await mustBeClean(disk);
  await disk.qemu.kill();
  await mustStandAlone(disk, "qcow2");
});

test("who only looks at a disk leaves the stream of another process alone", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const id = "streamdisk-stream-living";
  const job = { "job-id": id, device: "top", speed: 1, "auto-finalize": false, "auto-dismiss": false };
  await disk.qemu.execute("block-stream", job);
  const { backingNode, node } = await disk.domain.overlay("vda");
  assert.ok(backingNode !== undefined);
  assert.equal(node, "top");
  const { local, missing } = await disk.domain.tally("vda");
  assert.equal(local + missing, 16 * MIB);
  assert.equal((await disk.domain.map("vda", { offset: 0, limit: 1 })).extents.length, 1);
  const jobs = await disk.domain.qmp.execute("query-jobs", {});
  assert.deepEqual([jobs.length, jobs[0]?.id, jobs[0]?.status], [1, id, "running"]);
});

test("a disk is looked at while QEMU's own stream of this process fills it, and not changed", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  const stream = await disk.domain.stream("vda", SLOW);
  const { ended } = await halfWay(stream);
  assert.ok((await disk.domain.overlay("vda")).backingNode !== undefined);
  await assert.rejects(disk.domain.stream("vda"), { code: "in-use", message: /at work on 'vm:vda'/ });
  stream.cancel();
  await ended;
});

test("a snapshot by somebody else ends the stream, and the next one is of the new overlay", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const { ended } = await halfWay(await disk.domain.stream("vda", SLOW));
  const snapshot = join(disk.directory, "snapshot.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-F", "qcow2", "-u", "-b", disk.image, snapshot, "16M");
  await disk.qemu.execute("blockdev-snapshot-sync", {
    ...{
      "node-name": "top",
      "snapshot-file": snapshot,
      format: "qcow2",
      "snapshot-node-name": "snapshot",
      mode: "existing",
    },
  });
  const error = (await ended) as Error & { code: string };
  assert.equal(error.code, "changed");
  assert.match(error.message, /QEMU writes to another image now, '.*snapshot.qcow2'/);
  await mustBeClean(disk);
  await (await disk.domain.stream("vda")).run();
  await disk.qemu.kill();
  rmSync(disk.image);
  await mustStandAlone({ ...disk, image: snapshot }, "qcow2");
});

test("QEMU refuses to resize a disk while it is filled, and the stream goes on", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const stream = await disk.domain.stream("vda", SLOW);
  const { ended } = await halfWay(stream);
  await assert.rejects(disk.qemu.execute("block_resize", { "node-name": "top", size: 20 * MIB }), /'resize'/);
  stream.setSpeed(undefined);
  assert.equal(await ended, undefined);
  await disk.qemu.execute("block_resize", { "node-name": "top", size: 20 * MIB });
  await disk.qemu.kill();
  truncateSync(disk.expected, 20 * MIB);
  await mustStandAlone(disk, "qcow2");
});

const ENDS: Readonly<Record<string, (disk: QemuDisk) => Promise<unknown>>> = {
  "kill -9": (disk) => disk.qemu.kill(),
  quit: (disk) => disk.qemu.execute("quit").catch(() => {}),
};

for (const [how, end] of Object.entries(ENDS)) {
  test(`a QEMU that ends by ${how} ends the stream, and the image is whole`, async (t) => {
    const disk = await startQemuDisk(t, { format: "qcow2" });
    const { ended } = await halfWay(await disk.domain.stream("vda", SLOW));
    await end(disk);
    const error = (await ended) as Error & { code: string };
    assert.equal(error.code, "shutdown", error.message);
    qemuCheck(disk.image, "qcow2");
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", disk.image, disk.expected);
  });
}

test("it goes on when the monitor's connection ends, and when the guest is reset", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const stream = await disk.domain.stream("vda", { speed: 8 * MIB });
  const { ended } = await halfWay(stream);
  await disk.qemu.execute("system_reset");
  disk.domain.qmp.disconnect();
  assert.equal(await ended, undefined);
  await mustBeClean(disk);
  await disk.qemu.kill();
  await mustStandAlone(disk, "qcow2");
});

test("an export that somebody takes away ends the stream with that reason", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const { ended } = await halfWay(await disk.domain.stream("vda", SLOW));
  await disk.qemu.execute("nbd-server-stop");
  const error = (await ended) as Error & { code: string };
  assert.equal(error.code, "refused");
  assert.match(error.message, /Somebody has taken the export away by which 'vm:vda' was filled/);
  await mustBeClean(disk);
});

test("a stream is cancelled, paused and made faster", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const cancelled = await disk.domain.stream("vda", SLOW);
  const { ended } = await halfWay(cancelled);
  cancelled.cancel(new Error("enough"));
  assert.equal(((await ended) as Error).message, "enough");
  await mustBeClean(disk);
  const stream = await disk.domain.stream("vda", SLOW);
  const second = await halfWay(stream);
  stream.pause();
  while (stream.progress.state !== "paused") await sleep(10);
  stream.setSpeed(undefined);
  stream.resume();
  assert.equal(await second.ended, undefined);
  await disk.qemu.kill();
  await mustStandAlone(disk, "qcow2");
});

test("cancelling does not wait for a source that hangs", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2" });
  const stop = new AbortController();
  const stream = await disk.domain.stream("vda", { ...SLOW, signal: stop.signal });
  const { ended } = await halfWay(stream);
  await disk.source.freeze();
  await sleep(1000);
  stop.abort(new Error("enough"));
  // What hangs in QEMU holds its export for longer than it is waited for; the monitor answers all the time.
  assert.equal(await disk.domain.qmp.execute("query-status", {}), "prelaunch");
  assert.equal(((await ended) as Error).message, "enough");
  assert.match(stream.progress.warnings.join(), /a request on its export '.*' that waits for a source/);
  disk.source.thaw();
  const next = await disk.domain.stream("vda");
  assert.equal(next.method, "fill");
  await next.run();
  await mustBeClean(disk);
  await disk.qemu.kill();
  await mustStandAlone(disk, "qcow2");
});
