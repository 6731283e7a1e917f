/** Deployments that fail, and daemons that are killed in the middle of them: all of it is there, or nothing. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { SqliteStore } from "../../src/daemon/sqlite-store.ts";
import { openStateDirectory } from "../../src/daemon/state-directory.ts";
import { assertFails, cli, cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { directoryWithMachines, imageDisk, machineXml } from "../support/machine.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;
const SIZE = 8 * MIB;
/** Bytes a second of a stream that does not end in a test. */
const SLOW = 65536;

/** A daemon whose machines have no guest: QEMU's firmware finds nothing to boot. */
async function scene(t: TestContext, delay: number) {
  const directory = directoryWithMachines(t, "state/machines", async () => {
    await daemon[Symbol.asyncDispose]();
    await source[Symbol.asyncDispose]();
  });
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(SIZE, 5));
  const source = await startNbdkit(["--filter=delay", "file", base, `rdelay=${delay}ms`]);
  const daemon = new DaemonProcess(directory, ["--allow", source.uri, "--accelerator", "tcg"]);
  await daemon.start();
  return { directory, source, daemon, client: daemon.client };
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** Nothing is remembered, served, on disk, or running. */
async function assertNothing({ client, daemon, directory }: Scene): Promise<void> {
  const { deployments } = await client.call("listDeployments", {});
  const { disks } = await client.call("listDisks", {});
  const { exports } = await client.call("listExports", {});
  const { domains } = await client.call("listDomains", {});
  assert.deepEqual([deployments, disks, exports, domains], [[], [], [], []]);
  for (const made of ["images", "sockets", "machines"]) {
    const path = join(daemon.state, made);
    assert.deepEqual(existsSync(path) ? readdirSync(path) : [], [], made);
  }
  assert.deepEqual(qemusIn(directory), []);
}

/** What a daemon remembers that does not run. */
async function withStore<T>({ state }: DaemonProcess, act: (store: SqliteStore) => Promise<T>): Promise<T> {
  using directory = openStateDirectory(state);
  await using store = new SqliteStore(directory);
  return await act(store);
}

/** What an overlay says that it lies over. */
function backingOf(overlay: string): unknown {
  return (JSON.parse(qemuImg("info", "-f", "qcow2", "--output=json", overlay)) as Record<string, unknown>)[
    "backing-filename"
  ];
}

/** Processes of QEMU that have something below a directory. */
function qemusIn(directory: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "latin1");
      return /^[^\0]*qemu-system/.test(command) && command.includes(directory);
    } catch {
      return false;
    }
  });
}

test("what cannot be a machine leaves nothing behind, and says why", async (t) => {
  const at = await scene(t, 0);
  const { daemon, directory, source, client } = at;
  const failing = async (exit: number, words: RegExp, ...args: string[]) => {
    const all = ["deploy", source.uri, "--image-format", "raw", "--name", "vm1", ...args];
    assertFails(await cli(all, { env: daemon.env, cwd: directory }), exit, words);
    await assertNothing(at);
  };
  writeFileSync(join(directory, "bad.xml"), "<domain><name>");
  writeFileSync(join(directory, "odd.xml"), machineXml({ name: "x", devices: "<graphics type='vnc'/>" }));
  await failing(64, /could not be deployed, and nothing of it is left/, "--xml", "bad.xml");
  await failing(77, /nothing of it is left: .*graphics/, "--xml", "odd.xml", "--owner", "engine");
  await failing(77, /nothing of it is left: QEMU of 'vm1' ended at once/, "--qemu", "-nonsense");
  await failing(64, /end inside quotes/, "--qemu", "-name 'x");
  await failing(64, /exported only: the owner of its disk is the daemon/, "--export-only", "--owner", "qemu");
  await failing(66, /cannot read|no such file/i, "--xml", "none.xml");

  const body = { image: source.uri, imageFormat: "raw" } as const;
  await client.call("runMachine", { body: { xml: machineXml({ name: "vm1" }) } });
  const taken = client.call("deploy", { body: { ...body, name: "vm1" } });
  await assert.rejects(taken, { code: "exists", message: /There is a domain 'vm1' already/ });
  await client.call("deploy", { body: { ...body, name: "vm2" } });
  const removed = client.call("removeDomain", { params: { domain: "vm2" } });
  await assert.rejects(removed, { code: "refused", message: /undeploy vm2/ });
  const { disks } = await client.call("listDisks", {});
  assert.deepEqual([disks, (await client.call("listDomains", {})).domains.length], [[], 2]);
  await client.call("undeploy", { params: { deployment: "vm2" }, query: { force: true } });
  const { domains } = await client.call("listDomains", {});
  assert.deepEqual(
    domains.map(({ name }) => name),
    ["vm1"],
  );
});

test("without room for a disk nothing is left", async (t) => {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(SIZE, 5));
  await using source = await startNbdkit(["file", base]);
  const small = join(directory, "small");
  mkdirSync(small);
  const mount = `mount -t tmpfs -o size=64k none '${small}' && exec "$0" "$@"`;
  const args = ["--allow", source.uri, "--image-directory", small];
  await using daemon = new DaemonProcess(directory, args, {}, ["unshare", "-rm", "sh", "-c", mount]);
  await daemon.start();
  const { client } = daemon;
  for (const owner of ["qemu", "engine"] as const) {
    const body = { name: "vm1", image: source.uri, imageFormat: "raw", owner } as const;
    await assert.rejects(client.call("deploy", { body }), { code: "no-space", message: /nothing of it is left/ });
    const { deployments } = await client.call("listDeployments", {});
    assert.deepEqual([deployments, (await client.call("listExports", {})).exports], [[], []]);
  }
});

test("a removal that goes on with the next start takes nobody's base away", async (t) => {
  const { daemon, client, source } = await scene(t, 0);
  const order = { name: "vm1", image: source.uri, imageFormat: "raw", speed: SLOW } as const;
  const { overlay } = await client.call("deploy", { body: order });
  await client.call("stopDomain", { params: { domain: "vm1" }, body: { force: true } });
  await client.call("createDisk", { body: { name: "child", backing: overlay, backingFormat: "qcow2" } });
  await daemon.stop();
  // The child came while the guest took its time, and the daemon died then.
  await withStore(daemon, async (store) => {
    const [record] = await store.deployments();
    await store.putDeployment({ ...record!, state: "removing", keepDisk: false });
  });
  await daemon.start();
  const failed = async () =>
    (await client.call("listEvents", {})).events.find(({ type }) => type === "undeploy-failed");
  await until(async () => (await failed()) !== undefined);
  assert.match((await failed())?.message ?? "", /lies below the disk 'child': .* by 'streamdisk undeploy vm1'$/);
  assert.ok(existsSync(overlay));
  await client.call("deleteDisk", { params: { disk: "child" } });
  await client.call("undeploy", { params: { deployment: "vm1" } });
  assert.ok(!existsSync(overlay));
});

test("a daemon that is killed when it has linked a kept disk to its image finishes that", async (t) => {
  const { daemon, client, source } = await scene(t, 0);
  const body = { name: "vm1", image: source.uri, imageFormat: "raw", speed: SLOW, exportOnly: true } as const;
  const { overlay } = await client.call("deploy", { body });
  await daemon.stop();
  const [before] = await withStore(daemon, (store) => store.deployments());
  await daemon.start();
  await client.call("undeploy", { params: { deployment: "vm1" }, query: { keepDisk: true } });
  await daemon.stop();
  // All is done but the last: to forget it.
  await withStore(daemon, (store) => store.putDeployment({ ...before!, state: "removing", keepDisk: true }));
  await source.stop();
  await daemon.start();
  await until(async () => (await client.call("listDeployments", {})).deployments.length === 0);
  assert.equal(backingOf(overlay), source.uri);
});

/** Starts a machine of somebody's, with a disk that is filled slowly. */
async function startStranger({ client, daemon }: Scene, name: string): Promise<void> {
  const [base, image] = ["base.raw", "disk.qcow2"].map((file) => join(daemon.images, file)) as [string, string];
  writeFileSync(base, noise(SIZE, 6));
  qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image);
  const xml = machineXml({ name, devices: imageDisk(image, "qcow2") });
  await client.call("runMachine", { body: { xml } });
  await client.call("startStream", { params: { disk: `${name}:vda` }, body: { speed: SLOW } });
}

test("a machine that takes the name while its image is waited for keeps its stream", async (t) => {
  const at = await scene(t, 0);
  const { client, source, daemon } = at;
  await source.freeze();
  const deployed = client.call("deploy", { body: { name: "vm1", image: source.uri, imageFormat: "raw" } });
  const failed = assert.rejects(deployed, { code: "exists", message: /nothing of it is left: .*'vm1'/ });
  await until(async () => (await client.call("listDeployments", {})).deployments.length > 0);
  await startStranger(at, "vm1");
  source.thaw();
  await failed;
  const { state } = await client.call("streamInfo", { params: { disk: "vm1:vda" } });
  assert.equal(state, "running");
  assert.deepEqual(
    [readdirSync(join(daemon.state, "images")), (await client.call("listExports", {})).exports],
    [[], []],
  );
});

test("a removal that is stuck, and a machine that takes the name, leave each other alone", async (t) => {
  const at = await scene(t, 0);
  const { client, source, daemon } = at;
  const order = { name: "vm1", image: source.uri, imageFormat: "raw", speed: SLOW } as const;
  const { overlay } = await client.call("deploy", { body: order });
  await client.call("stopDomain", { params: { domain: "vm1" }, body: { force: true } });
  await source.stop();
  const undeploy = () =>
    client.call("undeploy", { params: { deployment: "vm1" }, query: { force: true, keepDisk: true } });
  await assert.rejects(undeploy(), { code: "source-lost" });
  await startStranger(at, "vm1");
  await assert.rejects(undeploy(), { code: "source-lost" });
  const disk = { params: { disk: "vm1:vda" } };
  const stream = async () => (await client.call("streamInfo", disk)).state;
  assert.equal(await stream(), "running");
  await client.call("setSpeed", { ...disk, body: { speed: null } });
  await until(async () => (await stream()) === "completed");
  await source.start();
  const said = await cliOk(["undeploy", "vm1", "--force"], { env: daemon.env });
  assert.equal(said.stdout, `'vm1' was removed; its image '${overlay}' stays\n`);
  // It was to stay, and what the stranger has is nothing to it.
  assert.equal(backingOf(overlay), source.uri);
  const { domains } = await client.call("listDomains", {});
  assert.deepEqual(
    domains.map(({ name, state }) => [name, state]),
    [["vm1", "running"]],
  );
});

/** The daemon is killed when so many steps of the deployment were seen to be done. */
const CELLS = (["qemu", "engine"] as const).flatMap((owner) =>
  [0, 1, 2, 3].flatMap((steps) => [0, 40, 150].map((pauseMs) => ({ owner, steps, pauseMs }))),
);

for (const { owner, steps, pauseMs } of sample("deploy and kill", CELLS, 1)) {
  test(`kill -9 of the daemon ${pauseMs} ms after ${steps} steps (${owner}): undone, or goes on`, async (t) => {
    const at = await scene(t, 20);
    const { daemon, client, source, directory } = at;
    const order = { name: "vm1", image: source.uri, imageFormat: "raw", owner, speed: 8 * MIB } as const;
    const show = () => client.call("getDeployment", { params: { deployment: "vm1" } });
    const deploying = client.call("deploy", { body: order }).catch(() => {});
    let seen = -1;
    while (seen < steps) seen = (await show().catch(() => undefined))?.steps.length ?? -1;
    await sleep(pauseMs);
    await daemon.stop("SIGKILL");
    await deploying;
    await daemon.start();
    const { deployments } = await client.call("listDeployments", {});
    const isMaking = deployments.some(({ state }) => state !== "ready");
    await until(async () =>
      (await client.call("listDeployments", {})).deployments.every(({ state }) => state === "ready"),
    );
    const goesOn = (await client.call("listDeployments", {})).deployments.length > 0;
    t.diagnostic(`killed after ${seen} steps: ${goesOn ? "goes on" : "undone"}`);
    assert.ok(!(goesOn && isMaking));
    if (!goesOn) {
      await until(async () => (await client.call("listExports", {})).exports.length === 0);
      await assertNothing(at);
      await client.call("deploy", { body: order });
    }
    assert.equal(qemusIn(directory).length, 1, "its machine runs");
    await until(async () => (await show()).hydrated);
    await client.call("undeploy", { params: { deployment: "vm1" }, query: { force: true } });
    await assertNothing(at);
  });
}
