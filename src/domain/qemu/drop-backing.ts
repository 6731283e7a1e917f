/**
 * The last act upon an overlay that lacks nothing any more: QEMU's own block-stream, which finds all in place and drops the link.
 *
 * QEMU changes the header without a flush before it. So the job is told to wait when it is done (`auto-finalize` off), the node is
 * flushed, and only then is the job finalized: otherwise a kill -9 right after its end leaves a header that has no link and tables
 * that lack what the link gave. A second flush makes the header durable too.
 */
import { randomBytes } from "node:crypto";
import { StreamdiskError } from "../../errors/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpJob } from "../qmp/commands.ts";
import { dismissJob, JOB_PREFIX, whileNodesChange } from "./nodes-at-rest.ts";

/** Ids of jobs that are seen through by this process. */
const living = new Set<string>();
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
      await whileNodesChange(qmp, () => dismissJob(qmp, id));
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
      await dismissJob(qmp, id);
      return job;
    }
    await qmp.change(POLL_MS);
  }
}

/** Does something with a job, by an id for it: until that is over it is not taken for one that was left. */
export async function withJob<T>(work: (id: string) => Promise<T>): Promise<T> {
  const id = `${JOB_PREFIX}${randomBytes(8).toString("hex")}`;
  living.add(id);
  try {
    return await work(id);
  } finally {
    living.delete(id);
  }
}

/** Takes jobs away that nobody waits for: of a process before this one that died, or left when the way to QEMU was lost. */
export async function dropLeftJobs(qmp: QmpClient): Promise<void> {
  for (const { id } of await qmp.execute("query-jobs", {})) {
    if (id.startsWith(JOB_PREFIX) && !living.has(id)) await dropJob(qmp, id);
  }
}

/** Takes a job away that is of no use any more, whatever its state. */
export function dropJob(qmp: QmpClient, id: string): Promise<void> {
  return whileNodesChange(qmp, async () => {
    for (let cancelled = false; ; await qmp.change(POLL_MS)) {
      const job = (await qmp.execute("query-jobs", {})).find((one) => one.id === id);
      if (job === undefined) return;
      if (job.status === "concluded") await dismissJob(qmp, id);
      else if (!cancelled) await qmp.execute("job-cancel", { id });
      cancelled = true;
    }
  });
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
