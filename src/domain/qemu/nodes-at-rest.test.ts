import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { test } from "node:test";
import { FakeMonitor, type SentCommand } from "../../../test/support/fake-monitor.ts";
import { QmpClient } from "../qmp/client.ts";
import { queryBlockLayer } from "./locate-overlay.ts";
import { whileNodesChange } from "./nodes-at-rest.ts";

const QUESTIONS = ["query-block", "query-named-block-nodes", "x-debug-query-block-graph"];

/** A QEMU without disks, which is told `then` when it was asked for its jobs. */
async function withQemu(
  work: (qmp: QmpClient, told: string[], then: (act: () => void) => void) => Promise<void>,
): Promise<void> {
  const told: string[] = [];
  let next: (() => void) | undefined;
  const command = ({ execute, id }: SentCommand, socket: Socket): void => {
    told.push(execute);
    if (execute === "query-jobs") next?.();
    next = undefined;
    const answer = execute.startsWith("x-debug") ? { nodes: [], edges: [] } : execute.startsWith("query") ? [] : {};
    // So late that what is sent meanwhile comes before what follows the answer.
    setTimeout(() => socket.write(JSON.stringify({ return: answer, id })), 20);
  };
  await using monitor = await FakeMonitor.start({ command });
  using qmp = new QmpClient(monitor.path);
  await work(qmp, told, (act) => {
    next = act;
  });
}

test("a job is finalized before or after the question for nodes, and not between whether it can be asked and it", async () => {
  await withQemu(async (qmp, told, then) => {
    const finalize = () => qmp.execute("job-finalize", { id: "x" });
    const finalizing = new Promise<void>((resolve, reject) =>
      then(() => whileNodesChange(qmp, finalize).then(resolve, reject)),
    );
    const asking = queryBlockLayer(qmp);
    await finalizing;
    await asking;
    assert.deepEqual(told, ["query-jobs", ...QUESTIONS, "job-finalize"]);
    told.length = 0;
    await Promise.all([whileNodesChange(qmp, finalize), queryBlockLayer(qmp), queryBlockLayer(qmp)]);
    assert.equal(told[0], "job-finalize");
    assert.deepEqual(told.slice(1, 3), ["query-jobs", "query-jobs"]);
  });
});

test("who waits for a change of nodes heeds its signal, and others come after the change all the same", async () => {
  await withQemu(async (qmp, told) => {
    const change = Promise.withResolvers<void>();
    const changing = whileNodesChange(qmp, () => change.promise);
    const stop = new AbortController();
    const left = assert.rejects(queryBlockLayer(qmp, stop.signal), /enough/);
    const alsoLeft = assert.rejects(
      whileNodesChange(qmp, async () => assert.fail(), stop.signal),
      /enough/,
    );
    stop.abort(new Error("enough"));
    await left;
    await alsoLeft;
    const asking = queryBlockLayer(qmp);
    assert.deepEqual(told, []);
    change.resolve();
    await changing;
    await asking;
    assert.deepEqual(told, ["query-jobs", ...QUESTIONS]);
  });
});
