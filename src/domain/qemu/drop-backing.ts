/**
 * The last act upon an overlay that lacks nothing any more: QEMU's own block-stream, which finds all in place and drops the link.
 *
 * QEMU changes the header without a flush before it. So the job is told to wait when it is done (`auto-finalize` off), the node is
 * flushed, and only then is the job finalized: otherwise a kill -9 right after its end leaves a header that has no link and tables
 * that lack what the link gave. A second flush makes the header durable too.
 */
import { StreamdiskError } from "../../errors/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpJob } from "../qmp/commands.ts";
import { whileNodesChange } from "./nodes-at-rest.ts";

const POLL_MS = 200;

export interface BackingJob {
  readonly id: string;
  /** What is flushed before the link is dropped and after it. */
  flush(): Promise<void>;
}

/**
 * Sees a block-stream that was started through to its end, and dismisses it.
 *
 * @param look called with the job each time that it is looked at
 * @throws {StreamdiskError} `io` for what stopped it, `refused` when somebody cancelled it, `shutdown` when QEMU has ended
 */
export async function finishJob(
  qmp: QmpClient,
  name: string,
  { id, flush }: BackingJob,
  look: (job: QmpJob) => void = () => {},
): Promise<void> {
  for (;;) {
    const job = await findJob(qmp, name, id);
    look(job);
    if (job.status === "pending") {
      await flush();
      const ended = await whileNodesChange(qmp, () => finalize(qmp, name, id));
      look(ended);
      if (ended.error !== undefined) throw stopped(name, ended);
      return await flush();
    }
    if (job.status === "concluded") {
      await qmp.execute("job-dismiss", { id });
      throw stopped(name, job);
    }
    await qmp.change(POLL_MS);
  }
}

/** @returns the job as it was in the end; it is dismissed */
async function finalize(qmp: QmpClient, name: string, id: string): Promise<QmpJob> {
  await qmp.execute("job-finalize", { id });
  for (;;) {
    const job = await findJob(qmp, name, id);
    if (job.status === "concluded") {
      await qmp.execute("job-dismiss", { id });
      return job;
    }
    await qmp.change(POLL_MS);
  }
}

/** Takes a job away that is of no use any more, whatever its state. */
export async function dropJob(qmp: QmpClient, id: string): Promise<void> {
  for (let cancelled = false; ; await qmp.change(POLL_MS)) {
    const job = (await qmp.execute("query-jobs", {})).find((one) => one.id === id);
    if (job === undefined) return;
    if (job.status === "concluded") await qmp.execute("job-dismiss", { id });
    else if (!cancelled) await qmp.execute("job-cancel", { id });
    cancelled = true;
  }
}

async function findJob(qmp: QmpClient, name: string, id: string): Promise<QmpJob> {
  const job = (await qmp.execute("query-jobs", {})).find((one) => one.id === id);
  if (job !== undefined) return job;
  const message = `QEMU's job on '${name}' is gone: somebody has dismissed it, or QEMU was started again`;
  throw new StreamdiskError("refused", message, { node: name });
}

function stopped(name: string, { error = "" }: QmpJob): StreamdiskError {
  const cancelled = /cancell?ed/i.test(error);
  const why = cancelled ? "somebody has cancelled it" : error;
  return new StreamdiskError(cancelled ? "refused" : "io", `QEMU's stream of '${name}' stopped: ${why}`, {
    node: name,
  });
}
