/** Deployments as users meet them: real daemons, disks over sources that are far away, kill -9. */
import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { assertFails, cli, cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { serveRanges } from "../support/http-server.ts";
import { directoryWithMachines } from "../support/machine.ts";
import { startNbdkit } from "../support/nbd-servers.ts";
import { qemuImg, qemuIo } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;
/** More than the cache of an export holds. */
const LARGE = 80 * MIB;

/** A daemon that may deploy from an HTTP server. */
async function scene(t: TestContext, { size = 16 * MIB, delayMs = 0 } = {}) {
  const directory = directoryWithMachines(t, "state/machines", () => daemon[Symbol.asyncDispose]());
  const http = await serveRanges("t", delayMs);
  t.after(() => http[Symbol.asyncDispose]());
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(size, 5));
  const daemon = new DaemonProcess(directory, ["--allow", `${http.origin}/`, "--accelerator", "tcg"]);
  await daemon.start();
  const image = `${http.origin}${base}?token=t`;
  const options = { env: daemon.env, cwd: directory };
  const { client } = daemon;
  const ok = async (...args: string[]): Promise<string> => (await cliOk(args, options)).stdout;
  const fails = (...args: string[]) => cli(args, options);
  const show = (name: string) => client.call("getDeployment", { params: { deployment: name } });
  const deploy = (name: string, more: { speed?: number; size?: number } = {}) =>
    client.call("deploy", {
      body: { name, image, imageFormat: "raw", owner: "engine", exportOnly: true, ...more },
    });
  const made = join(daemon.state, "images");
  return { directory, http, base, daemon, client, image, ok, fails, show, deploy, made };
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** Nothing is remembered, served or on disk. */
async function assertNothing({ client, made, daemon }: Scene): Promise<void> {
  const [{ deployments }, { disks }, { exports }] = await Promise.all([
    client.call("listDeployments", {}),
    client.call("listDisks", {}),
    client.call("listExports", {}),
  ]);
  assert.deepEqual([deployments, disks, exports], [[], [], []]);
  assert.deepEqual(readdirSync(made), []);
  assert.deepEqual(readdirSync(join(daemon.state, "sockets")), []);
}

test("an image is deployed, used at once, filled, and stands alone", async (t) => {
  const at = await scene(t, { delayMs: 10 });
  const { ok, image, show, client, http, base } = at;
  const said = await ok("deploy", image, "--export-only", "--name", "vm1", "--image-format", "raw", "--speed", "2M");
  assert.match(said, /^'vm1' was made from '.*': source .*, disk .*, stream /);
  assert.doesNotMatch(said, /token/);
  assert.match(said, /-blockdev driver=nbd,.*-device virtio-blk-pci,/);
  const { uri = "", overlay } = await show("vm1");
  qemuIo(uri, ["write -P 0x5a 9M 64k", "flush", "read -P 0x5a 9M 64k"], "-f", "raw");
  assert.match(await ok("deployments"), /^vm1 +ready +vm1-vda +[\d.]+ MiB missing /m);
  assert.match(await ok("export", "ls"), /^image-base\.raw-[0-9a-f]{8} +read-only /m);
  await ok("speed", "vm1-vda", "max");
  await ok("stream", "vm1-vda");
  await until(async () => (await client.call("listExports", {})).exports.length === 0);
  assert.equal((await show("vm1")).hydrated, true);
  await http[Symbol.asyncDispose]();
  const expected = `${base}.expected`;
  const content = noise(16 * MIB, 5);
  content.fill(0x5a, 9 * MIB, 9 * MIB + 65536);
  writeFileSync(expected, content);
  qemuImg("compare", "-q", "-f", "raw", "-F", "raw", uri, expected);
  assert.equal(await ok("undeploy", "vm1", "--keep-disk"), `'vm1' was removed; its image '${overlay}' stays\n`);
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", overlay, expected);
  assert.match(await ok("events"), /source-free .*http:/, "what the image lies on may be switched off");
});

test("QED, a larger disk, and --wait hydrated as JSON", async (t) => {
  const at = await scene(t);
  const args = ["--export-only", "--name", "vm1", "-f", "qed", "--disk-size", "24M", "--wait", "hydrated", "--json"];
  const made = JSON.parse(await at.ok("deploy", at.image, ...args)) as { overlay: string; hydrated: boolean };
  assert.equal(made.hydrated, true);
  const info = JSON.parse(qemuImg("info", "-U", "-f", "qed", "--output=json", made.overlay)) as Record<string, unknown>;
  assert.deepEqual([info["virtual-size"], info["backing-filename"]], [24 * MIB, undefined]);
  await at.ok("undeploy", "vm1");
  await assertNothing(at);
});

test("a disk that is kept before it is complete lies over its image", async (t) => {
  const { ok, deploy, image, client } = await scene(t);
  const { overlay } = await deploy("vm1", { speed: MIB });
  await deploy("vm2", { speed: MIB });
  await ok("undeploy", "vm1", "--keep-disk");
  assert.equal((await client.call("listExports", {})).exports.length, 1, "another needs it");
  const info = JSON.parse(qemuImg("info", "-f", "qcow2", "--output=json", overlay)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], image);
  await ok("disk", "create", "kept", "--adopt", overlay, "--stream");
  await ok("stream", "kept");
});

test("an image is not deleted while others lie over it", async (t) => {
  const { client, image, made, deploy, fails, ok } = await scene(t);
  const machine = { args: ["-m", "64"] };
  const body = { name: "vm1", image, imageFormat: "raw", owner: "qemu", machine } as const;
  const { overlay } = await client.call("deploy", { body });
  await client.call("stopDomain", { params: { domain: "vm1" }, body: { force: true } });
  const refused = async (above: string): Promise<void> => {
    assertFails(await fails("undeploy", "vm1"), 77, new RegExp(`'${overlay}' of 'vm1' lies below ${above}: `));
    const { state } = await client.call("getDeployment", { params: { deployment: "vm1" } });
    assert.equal(state, "ready");
  };
  const settings = { backing: overlay, backingFormat: "qcow2" } as const;
  await client.call("createDisk", { body: { name: "child", ...settings } });
  await refused("the disk 'child'");
  await ok("stream", "child");
  await client.call("addExport", { body: { name: "offer", image: overlay, listen: {} } });
  await refused("the export 'offer'");
  await ok("export", "rm", "offer");
  const over = { image: overlay, imageFormat: "qcow2", owner: "engine", exportOnly: true } as const;
  await client.call("deploy", { body: { name: "vm2", ...over, speed: 65536 } });
  await refused("the deployment 'vm2'");
  await ok("undeploy", "vm2");
  // One that is adopted says itself what it lies over, and is remembered to while it cannot be opened.
  const grandchild = join(made, "grandchild.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", overlay, "-F", "qcow2", join(made, "middle.qcow2"));
  qemuImg("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", grandchild);
  await client.call("createDisk", { body: { name: "deep", image: grandchild, adopt: true } });
  await refused("the disk 'deep'");
  await ok("disk", "rm", "deep");
  await ok("undeploy", "vm1");
  assert.deepEqual(readdirSync(made).sort(), ["child.qcow2", "grandchild.qcow2", "middle.qcow2"]);
  await deploy("vm1");
});

for (const owner of sample("eight disks", ["engine", "qemu"] as const, 1)) {
  const whose = owner === "engine" ? "disks" : "machines";
  test(`eight ${whose} cost the server of their image as much as one`, async (t) => {
    const { http, client, image } = await scene(t, { size: LARGE, delayMs: 5 });
    const machine = owner === "engine" ? { exportOnly: true } : { machine: { args: ["-m", "64"] } };
    const deploy = (name: string) =>
      client.call("deploy", { body: { name, image, imageFormat: "raw", owner, ...machine } });
    const undeploy = (name: string) =>
      client.call("undeploy", { params: { deployment: name }, query: { force: true } });
    const cost = async (...names: string[]) => {
      const before = http.bytes();
      await Promise.all(names.map(deploy));
      await until(async () => {
        const { deployments } = await client.call("listDeployments", {});
        return deployments.every(({ hydrated }) => hydrated);
      });
      await Promise.all(names.map(undeploy));
      return http.bytes() - before;
    };
    const one = await cost("one");
    assert.ok(one >= LARGE && one < 1.01 * LARGE, `${one} bytes`);
    const eight = await cost(...Array.from({ length: 8 }, (_, i) => `vm${i}`));
    t.diagnostic(`bytes of the server: ${one} for one of the ${whose}, ${eight} for eight`);
    assert.ok(eight <= 1.1 * one, `${eight} bytes for eight, ${one} for one`);
  });
}

test("the image's server dies: the disk knows, its stream waits, and goes on when it is back", async (t) => {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  writeFileSync(base, noise(16 * MIB, 5));
  await using source = await startNbdkit(["file", base]);
  await using daemon = new DaemonProcess(directory, ["--allow", source.uri]);
  await daemon.start();
  const { client } = daemon;
  const body = {
    name: "vm1",
    image: source.uri,
    imageFormat: "raw",
    speed: 2 * MIB,
    exportOnly: true,
    owner: "engine",
  } as const;
  const { uri = "" } = await client.call("deploy", { body });
  const disk = () => client.call("getDisk", { params: { disk: "vm1-vda" } });
  await source.stop();
  await until(async () => (await disk()).stream?.state === "waiting");
  const { source: state, stream } = await disk();
  assert.equal(state?.state, "lost");
  assert.equal(stream?.reason?.code, "source-lost");
  qemuIo(uri, ["write -P 0x5a 15M 64k", "read -P 0x5a 15M 64k"], "-f", "raw");
  await source.start();
  await until(async () => (await disk()).source?.state !== "lost");
  await client.call("setSpeed", { params: { disk: "vm1-vda" }, body: { speed: null } });
  await until(async () => (await disk()).hydrated === true);
});

test("what cannot be deployed leaves nothing behind, and says why", async (t) => {
  const at = await scene(t);
  const { fails, deploy, image, base, ok, made, client } = at;
  const failing = async (words: RegExp, exit: number, ...args: string[]) => {
    assertFails(await fails("deploy", "--export-only", ...args), exit, words);
    await assertNothing(at);
  };
  await failing(/nothing of it is left: .*nothing\.raw/, 66, image.replace("base", "nothing"), "--name", "vm1");
  await failing(/is to have 1048576 bytes/, 64, image, "--name", "vm1", "--image-format", "raw", "--disk-size", "1M");
  await failing(/may not open/, 77, base, "--name", "vm1");
  await failing(
    /nothing of it is left: .*not a valid qcow2 image/,
    65,
    image,
    "--name",
    "vm1",
    "--image-format",
    "qcow2",
  );
  writeFileSync(join(made, "vm1-vda.qcow2"), "mine");
  await assert.rejects(deploy("vm1"), { code: "exists", message: /is there already/ });
  const { uri = "" } = await deploy("vm2");
  await assert.rejects(deploy("vm2"), { code: "exists", message: /There is a deployment 'vm2' already/ });
  await assert.rejects(client.call("createDisk", { body: { name: "vm2-vda", size: MIB } }), { code: "exists" });
  assertFails(await fails("disk", "rm", "vm2-vda"), 77, /'vm2-vda' is the disk of the deployment 'vm2'/);
  qemuIo(uri, ["read 0 64k"], "-f", "raw");
  await ok("undeploy", "vm2");
  assert.deepEqual(readdirSync(made), ["vm1-vda.qcow2"]);
});
