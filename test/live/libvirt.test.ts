/**
 * Machines that a real libvirtd runs, with its QEMUs as another user where that is possible: their disks are named, filled and taken off
 * their source through virsh, while libvirtd is started again, the machine goes and comes, and others work on it.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmodSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { assertFails, type CliEnd, cli, cliOk, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { act } from "../support/guest/acts.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { Libvirtd } from "../support/libvirtd.ts";
import { qemuImg } from "../support/qemu.ts";
import { farOverlay } from "../support/qemu-disk.ts";
import { rng, sample } from "../support/seed.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;
const NAME = "web vm";
const ENDS: readonly string[] = ["completed", "failed", "cancelled"];

interface Scene {
  readonly directory: string;
  readonly far: Awaited<ReturnType<typeof farOverlay>>;
  readonly libvirtd: Libvirtd;
  readonly daemon: DaemonProcess;
  ok(...args: string[]): Promise<CliEnd>;
  fails(...args: string[]): Promise<CliEnd>;
  job(): Promise<{ state: string; copiedBytes: number; reason?: { code: string; message: string } | undefined }>;
}

/** A libvirtd with a machine that is described, a source, and a daemon. */
async function scene(t: TestContext, format: "qcow2" | "qed", hasGuest: boolean, delay = 0): Promise<Scene> {
  const directory = temporaryDirectory(t);
  chmodSync(directory, 0o755);
  const far = await farOverlay(directory, format, 16 * MIB, delay, { tcp: true });
  t.after(() => far.source[Symbol.asyncDispose]());
  const libvirtd = await Libvirtd.start();
  t.after(() => libvirtd[Symbol.asyncDispose]());
  // QEMU is another user's.
  const daemon = new DaemonProcess(join(directory, "daemon"), ["--disk-socket-mode", "666"]);
  t.after(() => daemon[Symbol.asyncDispose]());
  await daemon.start();
  libvirtd.give(far.image);
  const boot = hasGuest ? { boot: makeBootFiles(directory) } : {};
  await libvirtd.define({ name: NAME, image: far.image, format, ...boot });
  const options = { env: daemon.env, cwd: directory };
  return {
    ...{ directory, far, libvirtd, daemon },
    ok: (...args) => cliOk(args, options),
    fails: (...args) => cli(args, options),
    job: async () => (await daemon.client.call("listJobs", {})).jobs[0]!,
  };
}

function add({ ok, libvirtd }: Scene): Promise<CliEnd> {
  return ok("domain", "add", "web", "--libvirt", NAME, "--connect", libvirtd.uri);
}

/** Whether the last job is in a state; it must not end in another. */
async function isIn({ job }: Scene, wanted: string): Promise<boolean> {
  const { state, reason } = await job();
  assert.ok(state === wanted || !ENDS.includes(state), `${state}: ${reason?.message}`);
  return state === wanted;
}

function becomes(all: Scene, wanted: string): Promise<void> {
  return until(() => isIn(all, wanted));
}

async function mustStandAlone({ far, directory }: Scene, format: string): Promise<void> {
  await far.source.stop();
  rmSync(join(directory, "base.raw"));
  qemuImg("check", "-q", "-r", "leaks", "-f", format, far.image);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", far.image, far.expected);
}

for (const format of sample("libvirt", ["qcow2", "qed"] as const, 1)) {
  test(`a real guest of libvirt's on ${format}: all verbs, over a restart of libvirtd, to its boot without a source`, async (t) => {
    const all = await scene(t, format, true, 5);
    const { libvirtd, ok, fails, job, far, directory } = all;
    const model = readFileSync(far.expected);
    const random = rng(`libvirt ${format}`);
    let acts = 0;
    await libvirtd.startMachine(NAME);
    const { guest: first, diskBytes } = await libvirtd.guestOf(NAME);
    t.after(() => first[Symbol.dispose]());
    assert.equal(diskBytes, 16 * MIB);

    const added = await add(all);
    assert.match(added.stdout, /^state: running$/m);
    assert.match(added.stdout, /^libvirt domain: web vm of qemu\+unix:/m);
    assert.match(added.stdout, /tainted \('custom-monitor'\)/);
    assert.match(added.stdout, /backing file \(backingStore\)/);
    assert.match((await ok("domain", "dumpxml", "web")).stdout, /<alias name='virtio-disk0'\/>/);
    assert.match((await ok("info", "web:vda")).stdout, /^missing: 1\d\.\d MiB/m);
    assertFails(await fails("info", "web:drive-virtio-disk0"), 64, /write 'web:virtio-disk0' or 'web:vda'/);
    assert.match((await ok("stream", "web:virtio-disk0", "--step", "--length", "1M")).stdout, /^\d+\n$/);
    await ok("stream", "web:vda", "--speed", "1M", "--detach");
    await until(async () => (await job()).copiedBytes > 0);
    await ok("pause", "web:vda");
    assert.equal((await job()).state, "paused");
    await ok("resume", "web:vda");
    await libvirtd.stop();
    for (let i = 0; i < 5; i++) await act(first, model, random, ++acts);
    await becomes(all, "waiting");
    assert.match((await ok("domain", "show", "web")).stdout, /^state: unreachable\nerror: .*libvirt does not answer/m);
    await libvirtd.start();
    await ok("speed", "web:vda", "max");
    while (!(await isIn(all, "completed"))) await act(first, model, random, ++acts);
    assert.match((await ok("info", "web:vda")).stdout, /^missing: 0 /m);
    assert.doesNotMatch((await ok("events")).stdout, /stream-fallback/);

    await ok("disk", "create", "data", "--size", "1M");
    assert.match((await ok("domain", "attach", "web", "data")).stdout, /^'data' is 'web:vdb' now$/m);
    const hasSecond = async () => (await first.does("disks")).split(" ").includes("vdb");
    await until(hasSecond);
    assert.equal(await first.does("sum vdb"), createHash("md5").update(Buffer.alloc(MIB)).digest("hex"));
    await ok("domain", "detach", "web", "vdb");
    await until(async () => !(await hasSecond()));

    await far.source.stop();
    rmSync(join(directory, "base.raw"));
    for (let i = 0; i < 5; i++) await act(first, model, random, ++acts);
    assert.equal(await first.does("off"), "off");
    await until(async () => (await libvirtd.virsh("domstate", NAME)) === "shut off");
    assert.match((await ok("domain", "show", "web")).stdout, /^state: shut off\nerror: .*it does not run/m);
    assert.match((await ok("domain", "ls")).stdout, /^web +shut off +- +vda +web vm of /m);
    writeFileSync(far.expected, model);
    qemuImg("compare", "-q", "-f", format, "-F", "raw", far.image, far.expected);

    await libvirtd.startMachine(NAME);
    const { guest: second } = await libvirtd.guestOf(NAME);
    t.after(() => second[Symbol.dispose]());
    for (let i = 0; i < 5; i++) await act(second, model, random, ++acts);
    assert.doesNotMatch(await libvirtd.virsh("dumpxml", NAME), /nbd/, "libvirt has looked anew");
    assert.match((await ok("domain", "show", "web")).stdout, /^state: running$/m);
    await libvirtd.virsh("destroy", NAME);
    await libvirtd.virsh("undefine", NAME);
    assert.match((await ok("domain", "show", "web")).stdout, /^state: gone\nerror: .*there is no such domain/m);
    await ok("domain", "rm", "web");
    t.diagnostic(`${acts} acts of the guest`);
  });
}

async function shutOff(t: TestContext): Promise<void> {
  const all = await scene(t, "qcow2", false);
  const { libvirtd, ok, job, fails } = all;
  assertFails(await fails("domain", "add", "--libvirt", NAME), 64, /give it one, 'streamdisk domain add NAME/);
  assertFails(await fails("domain", "add", "web", "--libvirt", "x", "--connect", libvirtd.uri), 66, /no such domain/);
  assertFails(
    await fails("domain", "add", "web", "--libvirt", "x", "--connect", "qemu+ssh://h/system"),
    77,
    /on this host/,
  );
  assertFails(await fails("domain", "add", "web", "--libvirt", NAME, "--connect", libvirtd.uri), 69, /it does not run/);
  await libvirtd.startMachine(NAME);
  await add(all);
  await ok("domain", "pause", "web");
  assert.equal(await libvirtd.virsh("domstate", NAME), "paused");
  await ok("domain", "resume", "web");
  assert.equal(await libvirtd.virsh("domstate", NAME), "running");
  await ok("domain", "reset", "web");
  assertFails(await fails("domain", "start", "web"), 77, /somebody else runs it/);
  await ok("stream", "web:vda", "--speed", "512K", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await libvirtd.virsh("destroy", NAME);
  await becomes(all, "waiting");
  assert.match((await job()).reason?.message ?? "", /has ended|it does not run/);
  await ok("speed", "web:vda", "max");
  await libvirtd.startMachine(NAME);
  await becomes(all, "completed");
  assert.doesNotMatch((await ok("events")).stdout, /stream-fallback/);
  await ok("domain", "stop", "web", "--force");
  await until(async () => (await libvirtd.virsh("domstate", NAME)) === "shut off");
  await mustStandAlone(all, "qcow2");
}

async function others(t: TestContext): Promise<void> {
  const all = await scene(t, "qcow2", false);
  const { libvirtd, ok, job, far, directory } = all;
  await libvirtd.startMachine(NAME);
  await add(all);
  await ok("stream", "web:vda", "--speed", "256K", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await libvirtd.virsh("reset", NAME);
  await assert.rejects(libvirtd.virsh("blockresize", NAME, "vda", "32M"), /'resize'/);
  await libvirtd.virsh("blockjob", NAME, "vda", "--abort").catch(() => {});
  const before = (await job()).copiedBytes;
  await until(async () => (await job()).copiedBytes > before || (await job()).state !== "running");
  assert.equal((await job()).state, "running");

  const snapshot = join(directory, "snapshot.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", far.image, "-F", "qcow2", snapshot);
  libvirtd.give(snapshot);
  const diskspec = `vda,snapshot=external,file=${snapshot}`;
  const how = ["--disk-only", "--no-metadata", "--reuse-external"];
  await libvirtd.virsh("snapshot-create-as", NAME, "s1", ...how, "--diskspec", diskspec);
  await becomes(all, "failed");
  const { code, message } = (await job()).reason!;
  assert.equal(code, "changed");
  assert.match(message, /QEMU writes to another image now, '.*snapshot.qcow2'/);

  await ok("stream", "web:vda");
  assert.doesNotMatch((await ok("events")).stdout, /stream-fallback/);
  await libvirtd.virsh("destroy", NAME);
  await mustStandAlone({ ...all, far: { ...far, image: snapshot } }, "qcow2");
}

async function ownStream(t: TestContext): Promise<void> {
  const all = await scene(t, "qcow2", false);
  const { libvirtd, ok, job } = all;
  await libvirtd.startMachine(NAME);
  await add(all);
  const addr = { type: "inet", data: { host: "127.0.0.1", port: "0" } };
  const taken = JSON.stringify({ execute: "nbd-server-start", arguments: { addr } });
  await libvirtd.virsh("qemu-monitor-command", NAME, taken);
  await ok("stream", "web:vda", "--speed", "1M", "--detach");
  await until(async () => (await job()).copiedBytes > 0);
  await libvirtd.stop();
  await becomes(all, "waiting");
  await ok("speed", "web:vda", "max");
  await libvirtd.start();
  await becomes(all, "completed");
  assert.match((await ok("events")).stdout, /stream-fallback.*in use by somebody else/);
  await libvirtd.virsh("destroy", NAME);
  await mustStandAlone(all, "qcow2");
}

const CASES = [
  { what: "a machine that is shut off under a stream, and started again: the stream waits and goes on", run: shutOff },
  {
    what: "others who work on a disk that is filled are refused by QEMU or end its stream, and the next one goes on",
    run: others,
  },
  { what: "QEMU's own stream of a machine of libvirt's begins anew when libvirtd was away", run: ownStream },
] as const;

for (const { what, run } of sample("libvirt without a guest", CASES, 1)) test(what, run);
