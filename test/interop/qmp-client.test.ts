/** Our QMP client against QEMU's monitor. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { QmpClient, qmpFailure } from "../../src/domain/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { qemuImg, startMonitored } from "../support/qemu.ts";

/** A QEMU with one qcow2 image, and its monitor. */
async function scene(t: TestContext) {
  const directory = temporaryDirectory(t);
  const image = join(directory, "disk.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "1M");
  const socket = join(directory, "qmp");
  const node = { driver: "qcow2", "node-name": "top", file: { driver: "file", filename: image } };
  const qemu = await startMonitored(socket, "-blockdev", JSON.stringify(node));
  t.after(() => qemu.kill());
  const client = new QmpClient(socket);
  t.after(() => client[Symbol.dispose]());
  return { directory, image, socket, qemu, client };
}

test("commands, refusals and events of a real QEMU", async (t) => {
  const { client, image } = await scene(t);
  assert.equal(await client.execute("query-status", {}), "prelaunch");
  const nodes = await client.execute("query-named-block-nodes", { flat: true });
  const top = nodes.find(({ nodeName }) => nodeName === "top");
  assert.deepEqual(top, {
    ...{ nodeName: "top", driver: "qcow2", readOnly: false, file: image },
    ...{ backingFile: undefined, length: 2 ** 20, clusterSize: 65536, snapshots: 0, detectZeroes: "off" },
  });
  const graph = await client.execute("x-debug-query-block-graph", {});
  assert.ok(graph.nodes.some(({ type, name }) => type === "block-driver" && name === "top"));
  const events: string[] = [];
  client.onEvent(({ name }) => events.push(name));
  await client.execute("block-stream", {
    "job-id": "job",
    device: "top",
    "auto-finalize": false,
    "auto-dismiss": false,
  });
  for (;;) {
    const [job] = await client.execute("query-jobs", {});
    if (job?.status === "pending") break;
    await client.change(100);
  }
  await client.execute("job-finalize", { id: "job" });
  await client.execute("job-dismiss", { id: "job" });
  assert.deepEqual(await client.execute("query-jobs", {}), []);
  assert.ok(events.includes("BLOCK_JOB_PENDING") && events.includes("BLOCK_JOB_COMPLETED"), `${events}`);
  await assert.rejects(client.execute("job-dismiss", { id: "job" }), (error) => {
    assert.match(qmpFailure(error)?.desc ?? "", /Job not found/);
    return true;
  });
});

test("one monitor serves one client, and the next one when that has gone", async (t) => {
  const { client, socket } = await scene(t);
  await client.execute("query-status", {});
  using second = new QmpClient(socket, { timeoutMs: 200 });
  await assert.rejects(second.execute("query-status", {}), { code: "in-use" });
  client[Symbol.dispose]();
  using third = new QmpClient(socket);
  assert.equal(await third.execute("query-status", {}), "prelaunch");
});

test("a QEMU that was killed is known to be gone", async (t) => {
  const { client, qemu } = await scene(t);
  await client.execute("query-status", {});
  const changed = client.change(1e9);
  await qemu.kill();
  await changed;
  await assert.rejects(client.execute("query-status", {}), { code: "shutdown" });
});
