import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeMonitor } from "../../../test/support/fake-monitor.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { QmpClient } from "../qmp/client.ts";
import { dropLeftJobs, finishJob, withJob } from "./drop-backing.ts";

const LEFT = "streamdisk-stream-left";

/** A QEMU with jobs, which does with them what the test says: what it throws is refused. */
async function withJobs(
  act: (command: string, status: Map<string, string>) => void,
  work: (parts: { qmp: QmpClient; status: Map<string, string>; told: string[]; clock: ManualClock }) => Promise<void>,
): Promise<void> {
  const status = new Map<string, string>();
  const told: string[] = [];
  await using monitor = await FakeMonitor.start({
    command: ({ execute, id }, socket) => {
      if (execute !== "query-jobs") told.push(execute);
      const job = { type: "stream", "current-progress": 0, "total-progress": 1 };
      const jobs = [...status].map(([name, is]) => ({ ...job, id: name, status: is }));
      try {
        act(execute, status);
        socket.write(JSON.stringify({ return: execute === "query-jobs" ? jobs : {}, id }));
      } catch (error) {
        const refusal = { class: "GenericError", desc: (error as Error).message };
        socket.write(JSON.stringify({ error: refusal, id }));
      }
    },
  });
  const clock = new ManualClock();
  using qmp = new QmpClient(monitor.path, { clock, timeoutMs: 1e9 });
  await work({ qmp, status, told, clock });
}

const flush = async (): Promise<void> => {};

test("a job without anything to copy that gets nowhere is given up and cancelled, and named", async () => {
  await withJobs(
    () => {},
    async ({ qmp, status, told, clock }) => {
      const ends = withJob(qmp, async (id) => {
        status.set(id, "running");
        await finishJob(qmp, "vm:vda", { id, copies: false, flush });
      });
      const message = /^QEMU's job 'streamdisk-stream-\w+' at '.*qmp' has not come to its end within 30 s/;
      await clock.runUntil(assert.rejects(ends, { code: "in-use", message }), 1000);
      assert.deepEqual(told, ["job-cancel"]);
    },
  );
});

test("one that copies waits for its source, and has to end all the same when it was told to", async () => {
  await withJobs(
    (command, status) => {
      if (command === "job-cancel") status.clear();
    },
    async ({ qmp, status, told, clock }) => {
      const ends = withJob(qmp, async (id) => {
        status.set(id, "running");
        await finishJob(qmp, "vm:vda", { id, copies: true, flush }, (job) => {
          if (clock.now() > 1e5) status.set(job.id, "pending");
        });
      });
      await clock.runUntil(assert.rejects(ends, { code: "in-use", message: /within 10 s/ }), 1000);
      assert.deepEqual(told, ["job-finalize", "job-cancel"]);
    },
  );
});

test("nothing is left of a job whose end failed", async () => {
  await withJobs(
    (command, status) => {
      for (const id of status.keys()) if (command === "job-cancel") status.set(id, "concluded");
      if (command === "job-dismiss") status.clear();
    },
    async ({ qmp, status, told, clock }) => {
      const ends = withJob(qmp, async (id) => {
        status.set(id, "pending");
        const full = async (): Promise<void> => {
          throw new Error("no room");
        };
        await finishJob(qmp, "vm:vda", { id, copies: false, flush: full });
      });
      await clock.runUntil(assert.rejects(ends, /no room/));
      assert.deepEqual(told, ["job-cancel", "job-dismiss"]);
    },
  );
});

test("a job that was left and does not go is named, and waiting for another to take it away heeds the signal", async () => {
  await withJobs(
    () => {},
    async ({ qmp, status, clock }) => {
      status.set(LEFT, "running");
      const lingers = assert.rejects(dropLeftJobs(qmp), { code: "in-use", message: /'streamdisk-stream-left'.* 10 s/ });
      await clock.advance(1000);
      const stop = new AbortController();
      const dropping = assert.rejects(dropLeftJobs(qmp, stop.signal), /enough/);
      await clock.advance(1000);
      stop.abort(new Error("enough"));
      await dropping;
      await clock.runUntil(lingers, 1000);
    },
  );
});

test("a job that was told to end is seen through by who gives up meanwhile, since its end must not be met", async () => {
  await withJobs(
    (command, status) => {
      if (command === "job-dismiss") status.clear();
    },
    async ({ qmp, status, told, clock }) => {
      status.set(LEFT, "running");
      const stop = new AbortController();
      const dropping = dropLeftJobs(qmp, stop.signal);
      await clock.advance(1000);
      assert.deepEqual(told, ["job-cancel"]);
      stop.abort(new Error("enough"));
      await clock.advance(1000);
      status.set(LEFT, "concluded");
      await clock.runUntil(dropping);
      assert.deepEqual(told, ["job-cancel", "job-dismiss"]);
    },
  );
});

test("two may take away a job that was left: it has gone when one of them comes to it", async () => {
  await withJobs(
    (command, status) => {
      if (command === "query-jobs") return;
      status.clear();
      throw new Error(`Job not found: ${command}`);
    },
    async ({ qmp, status, told, clock }) => {
      for (const state of ["running", "concluded"]) {
        status.set(LEFT, state);
        await clock.runUntil(dropLeftJobs(qmp));
      }
      assert.deepEqual(told, ["job-cancel", "job-dismiss"]);
    },
  );
});
