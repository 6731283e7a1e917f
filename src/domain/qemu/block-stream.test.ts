import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeMonitor } from "../../../test/support/fake-monitor.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { until } from "../../../test/support/until.ts";
import { QmpClient } from "../qmp/client.ts";
import { BlockStream } from "./block-stream.ts";
import { type Overlay, queryBlockLayer } from "./locate-overlay.ts";

const OVERLAY: Overlay = {
  ...{ name: "vm:vda", qdev: undefined, node: "top", backingNode: "base", backingFile: undefined, format: "qcow2" },
  ...{ file: "/top.qcow2", length: 2 ** 20, clusterSize: 65536, detectZeroes: "off" },
};

const QUESTIONS = ["query-block", "query-named-block-nodes", "x-debug-query-block-graph"];

/** Answers of a QEMU with a job, or none. */
function answersOf(job: string | undefined, status: string): Readonly<Record<string, unknown>> {
  const one = { id: job, type: "stream", status, "current-progress": 1, "total-progress": 1 };
  return {
    "query-jobs": job === undefined ? [] : [one],
    ...{ "query-block": [], "query-named-block-nodes": [], "human-monitor-command": "" },
    "x-debug-query-block-graph": { nodes: [], edges: [] },
  };
}

test("QEMU is told speeds in whole bytes, never none at all by mistake, and the one that was set while its job was begun", async () => {
  const speeds: [string, unknown][] = [];
  let job: string | undefined;
  await using monitor = await FakeMonitor.start({
    command: ({ execute, arguments: args, id }, socket) => {
      if (execute === "block-stream") job = args["job-id"] as string;
      if (execute === "job-finalize") job = undefined;
      if ("speed" in args) speeds.push([execute, args["speed"]]);
      if (execute === "block-stream") stream.setSpeed(2.7);
      socket.write(JSON.stringify({ return: answersOf(job, "pending")[execute] ?? {}, id }));
    },
  });
  using qmp = new QmpClient(monitor.path);
  const stream = new BlockStream({ qmp, overlay: OVERLAY, speed: 0.3, warnings: [] });
  await assert.rejects(stream.run(), { code: "refused", message: /QEMU's job on 'vm:vda' is gone/ });
  assert.deepEqual(speeds, [
    ["block-stream", 1],
    ["block-job-set-speed", 2],
  ]);
});

test("a stream is cancelled before or after a question for nodes, and not between whether it can be asked and it", async () => {
  const told: string[] = [];
  let job: string | undefined;
  let status = "running";
  let asked = (): void => {};
  await using monitor = await FakeMonitor.start({
    command: ({ execute, arguments: args, id }, socket) => {
      told.push(execute);
      if (execute === "block-stream") job = args["job-id"] as string;
      if (execute === "job-cancel") status = "concluded";
      if (execute === "job-dismiss") job = undefined;
      const answer = answersOf(job, status)[execute] ?? {};
      if (execute === "query-jobs") asked();
      // So late that what is sent meanwhile comes before what follows the answer.
      setTimeout(() => socket.write(JSON.stringify({ return: answer, id })), 20);
    },
  });
  const clock = new ManualClock();
  using qmp = new QmpClient(monitor.path, { clock, timeoutMs: 1e9 });
  const stream = new BlockStream({ qmp, overlay: OVERLAY, warnings: [], clock });
  const cancelled = assert.rejects(stream.run(), /enough/);
  // It has looked at its job, and does not again before the clock moves.
  await until(async () => clock.slept.includes(200) && told.at(-1) === "block-job-set-speed");
  told.length = 0;
  asked = () => stream.cancel(new Error("enough"));
  await queryBlockLayer(qmp);
  await clock.runUntil(cancelled, 1);
  assert.deepEqual(told.slice(0, 4), ["query-jobs", ...QUESTIONS]);
  assert.deepEqual(told.slice(4), ["query-jobs", "job-cancel", "query-jobs", "job-dismiss", "query-jobs"]);
  assert.equal(stream.progress.state, "cancelled");
});
