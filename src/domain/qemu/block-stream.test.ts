import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeMonitor } from "../../../test/support/fake-monitor.ts";
import { QmpClient } from "../qmp/client.ts";
import { BlockStream } from "./block-stream.ts";
import type { Overlay } from "./locate-overlay.ts";

const OVERLAY: Overlay = {
  ...{ name: "vm:vda", qdev: undefined, node: "top", backingNode: "base", backingFile: undefined, format: "qcow2" },
  ...{ file: "/top.qcow2", length: 2 ** 20, clusterSize: 65536, detectZeroes: "off" },
};

/** Answers of a QEMU whose jobs are done as soon as they are asked for. */
function answersOf(job: string | undefined): Readonly<Record<string, unknown>> {
  const done = { id: job, type: "stream", status: "pending", "current-progress": 1, "total-progress": 1 };
  return {
    "query-jobs": job === undefined ? [] : [done],
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
      socket.write(JSON.stringify({ return: answersOf(job)[execute] ?? {}, id }));
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
