/** QEMU crashes when it is asked for its nodes at the wrong moment of a stream's end: whoever asks then waits. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { RunningDomain } from "../../src/domain/index.ts";
import { socketTransport } from "../../src/domain/qmp/connection.ts";
import type { QmpLink, QmpTransport } from "../../src/domain/qmp/transport.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { describedAs, startQemuDisk } from "../support/qemu-disk.ts";

test("a machine whose disks are asked for at every moment of the end of a stream lives on", async (t) => {
  const { domain } = await startQemuDisk(t, { format: "qcow2", size: 4 * 2 ** 20 });
  const asked: Promise<unknown>[] = [];
  domain.qmp.onEvent(({ name }) => {
    if (/^(BLOCK_JOB|JOB)_/.test(name)) asked.push(domain.overlay("vda"), domain.tally("vda"));
  });
  await (await domain.stream("vda")).run();
  assert.ok(asked.length > 4, `asked ${asked.length} times`);
  await Promise.all(asked);
  assert.equal((await domain.overlay("vda")).backingNode, undefined);
});

test("a job that a program before has left at its end is taken away before anything is asked", async (t) => {
  const { domain, directory } = await startQemuDisk(t, { format: "qcow2", size: 4 * 2 ** 20 });
  const { qmp } = domain;
  const id = "streamdisk-stream-left";
  const status = async () => (await qmp.execute("query-jobs", {})).find((job) => job.id === id)?.status;
  await qmp.execute("block-stream", { "job-id": id, device: "top", "auto-finalize": false, "auto-dismiss": false });
  while ((await status()) !== "pending") await qmp.change(100);
  await qmp.execute("job-finalize", { id });
  while ((await status()) !== "concluded") await qmp.change(100);
  qmp.disconnect();
  await using next = new RunningDomain({ qmp: qmp.name, description: describedAs("vm"), socketDirectory: directory });
  assert.equal((await next.overlay("vda")).backingNode, undefined);
});

/** A monitor that does what the last act begins with, and answers neither to that nor to who would take its job away. */
function deafAtTheEnd(path: string): QmpTransport {
  const transport = socketTransport(path);
  const deafTo = ["block-stream", "query-jobs"];
  return {
    name: transport.name,
    open: async (options, listener) => {
      const link = await transport.open(options, listener);
      const execute: QmpLink["execute"] = async (name, args, signal) => {
        const answer = await link.execute(name, args, signal);
        // The second only after the first.
        if (name !== deafTo[0]) return answer;
        deafTo.shift();
        throw new StreamdiskError("io", `QEMU did not answer ${name}`);
      };
      return {
        execute,
        close: () => link.close(),
        get isOver() {
          return link.isOver;
        },
      };
    },
  };
}

test("a fill whose last act has left its job in QEMU ends it and goes on", async (t) => {
  const { directory } = await startQemuDisk(t, { format: "qcow2", size: 4 * 2 ** 20 });
  const qmp = deafAtTheEnd(join(directory, "qmp"));
  await using domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });
  const stream = await domain.stream("vda", { retryFor: 5000 });
  assert.equal(stream.method, "fill");
  await stream.run();
  assert.equal((await domain.overlay("vda")).backingNode, undefined);
});
