/**
 * When QEMU may be asked for its block nodes.
 *
 * QEMU 7.2 crashes when it is asked for them (`query-named-block-nodes`) between the end of a block-stream and its dismissal: the job has
 * left a filter that has nothing below it any more. So whoever ends such a job has the questions wait until it is dismissed, and waits itself for those
 * that are under way: QEMU may have answered that no job has ended, and be asked for the nodes only then. A
 * job that somebody else has left so is waited for, and dismissed if it is ours and nobody has come for it.
 */
import { RangeLock, whileWanted } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpJob } from "../qmp/commands.ts";
import { unlessRefused } from "../qmp/qmp-error.ts";

/** Before the id, in the names of jobs that are made here. */
export const JOB_PREFIX = "streamdisk-stream-";
const LOOK_MS = 100;
/** After so long nobody comes for a job any more. */
const PATIENCE_MS = 3000;

/** The nodes of each QEMU: those who ask for them share them, who changes them has them alone. */
const locks = new WeakMap<QmpClient, RangeLock>();

/** Ends and dismisses a job, while nobody asks for nodes. Nodes can't be asked for within it. */
export function whileNodesChange<T>(qmp: QmpClient, act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  return holding(qmp, false, act, signal);
}

/**
 * Asks for nodes when QEMU can be asked.
 *
 * @throws {StreamdiskError} `in-use` for a job of another that is ended and never dismissed; the signal's reason
 */
export async function whileNodesRest<T>(qmp: QmpClient, ask: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const until = qmp.clock.now() + PATIENCE_MS;
  for (;;) {
    const look = async (): Promise<{ ended: string } | { answer: T }> => {
      const ended = (await qmp.execute("query-jobs", {}, { signal })).find(hasEnded);
      return ended === undefined ? { answer: await ask() } : { ended: ended.id };
    };
    const found = await holding(qmp, true, look, signal);
    if ("answer" in found) return found.answer;
    const { ended: id } = found;
    if (qmp.clock.now() < until) await qmp.change(LOOK_MS, signal);
    else if (id.startsWith(JOB_PREFIX)) await whileNodesChange(qmp, () => dismissJob(qmp, id), signal);
    else {
      const message = `QEMU's job '${id}' at '${qmp.name}' has ended and was not dismissed: QEMU can't be asked for its disks until whoever began it does that (job-dismiss)`;
      throw new StreamdiskError("in-use", message, { node: qmp.name });
    }
  }
}

/** Dismisses a job, unless somebody has done it. */
export function dismissJob(qmp: QmpClient, id: string): Promise<void> {
  return unlessRefused(qmp.execute("job-dismiss", { id }));
}

function hasEnded({ type, status }: QmpJob): boolean {
  return type === "stream" && status === "concluded";
}

/** Acts while the nodes of a QEMU are held, in the order in which they were asked for. */
async function holding<T>(
  qmp: QmpClient,
  shared: boolean,
  act: () => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  const lock = locks.get(qmp) ?? new RangeLock();
  locks.set(qmp, lock);
  const turn = Promise.resolve(lock.acquire(0, 1, shared));
  try {
    await whileWanted(turn, signal);
    return await act();
  } finally {
    // At once, or as soon as it is granted to one who has gone.
    void turn.then((handle) => lock.release(handle));
  }
}
