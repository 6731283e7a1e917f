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
import { unlessRefused } from "../qmp/qmp-error.ts";
import { dismissJob, JOB_PREFIX, whileNodesChange } from "./nodes-at-rest.ts";

/** Ids of jobs that are seen through by this process. */
const living = new Set<string>();
const POLL_MS = 200;
/** How long a job may take that was told to end. */
const END_MS = 10_000;
/** How long one that has nothing to copy may get nowhere. */
const IDLE_MS = 30_000;

export interface BackingJob {
  readonly id: string;
  /** Whether it has something to copy, and may wait for a source as long as that takes. */
  readonly copies: boolean;
  /** What is flushed before the link is dropped and after it. */
  flush(): Promise<void>;
  /** Gives it up; once the link is being dropped that is too late. */
  readonly signal?: AbortSignal;
}

/**
 * Sees a block-stream that was started through to its end, and dismisses it.
 *
 * @param look called with the job each time that it is looked at
 * @throws {StreamdiskError} `io` for what stopped it, `refused` when somebody cancelled it, `in-use` when it does not come to its end,
 *   `shutdown` when QEMU has ended; the signal's reason, and then the job is there still
 */
export async function finishJob(
  qmp: QmpClient,
  name: string,
  { id, copies, flush, signal }: BackingJob,
  look: (job: QmpJob) => void | Promise<void> = () => {},
): Promise<void> {
  let since = qmp.clock.now();
  for (let done = 0; ; await qmp.change(POLL_MS, signal)) {
    signal?.throwIfAborted();
    const job = await findJob(qmp, name, id);
    await look(job);
    if (job.status === "pending") {
      await flush();
      const ended = await whileNodesChange(qmp, () => finalize(qmp, name, id));
      await look(ended);
      if (ended.error !== undefined) throw stopped(name, ended);
      return await flush();
    }
    if (job.status === "concluded") {
      await whileNodesChange(qmp, () => dismissJob(qmp, id));
      throw stopped(name, job);
    }
    if (job.current !== done) since = qmp.clock.now();
    done = job.current;
    if (!copies) mustNotLinger(qmp, id, { since, most: IDLE_MS });
  }
}

/** @returns the job as it was in the end; it is dismissed */
async function finalize(qmp: QmpClient, name: string, id: string): Promise<QmpJob> {
  await qmp.execute("job-finalize", { id });
  for (const since = qmp.clock.now(); ; await qmp.change(POLL_MS)) {
    const job = await findJob(qmp, name, id);
    if (job.status === "concluded") {
      await dismissJob(qmp, id);
      return job;
    }
    mustNotLinger(qmp, id, { since, most: END_MS });
  }
}

/**
 * Does something with a job, by an id for it: until that is over it is not taken for one that was left. Nothing is left of a job when that fails.
 */
export async function withJob<T>(qmp: QmpClient, work: (id: string) => Promise<T>): Promise<T> {
  const id = `${JOB_PREFIX}${randomBytes(8).toString("hex")}`;
  living.add(id);
  try {
    return await work(id);
  } catch (error) {
    // Why it failed counts; what is left of it all the same is taken away by the next who changes something.
    await dropJob(qmp, id).catch(() => {});
    throw error;
  } finally {
    living.delete(id);
  }
}

/**
 * Takes jobs away that nobody waits for: of a process before this one that died, or left when the way to QEMU was lost.
 *
 * @throws {StreamdiskError} `in-use` for one that does not end
 */
export async function dropLeftJobs(qmp: QmpClient, signal?: AbortSignal): Promise<void> {
  for (const { id } of await qmp.execute("query-jobs", {}, { signal })) {
    if (id.startsWith(JOB_PREFIX) && !living.has(id)) await dropJob(qmp, id, signal);
  }
}

/**
 * Takes a job away that is of no use any more, whatever its state. Once it was told to end it is seen through, signal or not: it ends by itself
 * at some time, and nobody may ask for nodes between that and its dismissal.
 */
function dropJob(qmp: QmpClient, id: string, signal?: AbortSignal): Promise<void> {
  const drop = async (): Promise<void> => {
    const since = qmp.clock.now();
    for (let told = false; ; await qmp.change(POLL_MS)) {
      const jobs = await qmp.execute("query-jobs", {}, told ? {} : { signal });
      const job = jobs.find((one) => one.id === id);
      if (job === undefined) return;
      if (job.status === "concluded") await dismissJob(qmp, id);
      else if (!told) await unlessRefused(qmp.execute("job-cancel", { id }));
      told = true;
      mustNotLinger(qmp, id, { since, most: END_MS });
    }
  };
  return whileNodesChange(qmp, drop, signal);
}

/** @throws {StreamdiskError} `in-use` when a job has taken too long */
function mustNotLinger(
  qmp: QmpClient,
  id: string,
  { since, most }: { readonly since: number; readonly most: number },
): void {
  if (qmp.clock.now() - since < most) return;
  const message =
    `QEMU's job '${id}' at '${qmp.name}' has not come to its end within ${most / 1000} s. It may wait for a request ` +
    "that a source does not answer: try again when the source is back";
  throw new StreamdiskError("in-use", message, { node: qmp.name });
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
