/**
 * When QEMU may be asked for its block nodes.
 *
 * QEMU 7.2 crashes when it is asked for them (`query-named-block-nodes`) between the end of a block-stream and its dismissal: the job has
 * left a filter that has nothing below it any more. So whoever ends such a job has the questions wait until it is dismissed, and a
 * job that somebody else has left so is waited for, and dismissed if it is ours and nobody has come for it.
 */
import { StreamdiskError } from "../../errors/index.ts";
import type { QmpClient } from "../qmp/client.ts";

/** Before the id, in the names of jobs that are made here. */
export const JOB_PREFIX = "streamdisk-stream-";
const LOOK_MS = 100;
/** After so many looks nobody comes for a job any more. */
const MOST_LOOKS = 30;

/** What changes the nodes of a QEMU now. */
const changing = new WeakMap<QmpClient, Set<Promise<unknown>>>();

/** Ends and dismisses a job, while nobody asks for nodes. */
export async function whileNodesChange<T>(qmp: QmpClient, act: () => Promise<T>): Promise<T> {
  const acts = changing.get(qmp) ?? new Set();
  changing.set(qmp, acts);
  const done = act();
  acts.add(done);
  try {
    return await done;
  } finally {
    acts.delete(done);
  }
}

/** Resolves when QEMU can be asked. @throws {StreamdiskError} `in-use` for a job of another that is ended and never dismissed */
export async function nodesAtRest(qmp: QmpClient, signal?: AbortSignal): Promise<void> {
  for (let looks = 0; ; looks++) {
    await Promise.allSettled(changing.get(qmp) ?? []);
    const jobs = await qmp.execute("query-jobs", {}, { signal });
    const ended = jobs.find(({ type, status }) => type === "stream" && status === "concluded");
    if (ended === undefined) return;
    const { id } = ended;
    if (looks > MOST_LOOKS && !id.startsWith(JOB_PREFIX)) {
      const message = `QEMU's job '${id}' at '${qmp.name}' has ended and was not dismissed: QEMU can't be asked for its disks until whoever began it does that (job-dismiss)`;
      throw new StreamdiskError("in-use", message, { node: qmp.name });
    }
    if (looks > MOST_LOOKS) await qmp.execute("job-dismiss", { id }, { signal });
    else await qmp.change(LOOK_MS, signal);
  }
}
