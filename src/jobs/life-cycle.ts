/**
 * The life of a job: which act is allowed in which state, and what becomes of its record.
 *
 *   created -> running <-> waiting          what ended stays as it is
 *                 |  \        |
 *              paused  completed | cancelled | failed
 *
 * A job that is `created`, or `waiting` with the reason `queued`, stands in the queue (see queue.ts). `waiting` with any other
 * reason is the business of the stream itself, which goes on when it can. `paused` ends only when somebody says so.
 */
import type { JobReason, JobRecord, JobState } from "./records.ts";

/**
 * What may happen to a job: `run` when it gets its turn or goes on by itself; `wait` when it cannot go on, or has lost its turn
 * (the daemon was restarted); `resume` when it was paused and may take its turn again.
 */
export type JobAct = "run" | "wait" | "pause" | "resume" | "complete" | "cancel" | "fail";

type Acts = Partial<Readonly<Record<JobAct, JobState>>>;

const ENDS: Acts = { cancel: "cancelled", fail: "failed" };
const NEXT: Readonly<Record<JobState, Acts>> = {
  created: { run: "running", pause: "paused", ...ENDS },
  running: { wait: "waiting", pause: "paused", complete: "completed", ...ENDS },
  waiting: { run: "running", wait: "waiting", pause: "paused", ...ENDS },
  paused: { resume: "waiting", ...ENDS },
  completed: {},
  cancelled: {},
  failed: {},
};

export const ENDED_STATES = ["completed", "cancelled", "failed"] as const satisfies readonly JobState[];
/** States of jobs that are still to be done. */
export const UNFINISHED_STATES = ["created", "running", "paused", "waiting"] as const satisfies readonly JobState[];

/** @returns undefined when the act makes no sense in that state */
export function nextState(state: JobState, act: JobAct): JobState | undefined {
  return NEXT[state][act];
}

export function hasEnded(job: Pick<JobRecord, "state">): boolean {
  return ENDED_STATES.some((state) => state === job.state);
}

/**
 * The record of a job after an act.
 *
 * @param now milliseconds since 1970
 * @param reason why it does not run from now on; the one before it is forgotten
 * @returns undefined when the act makes no sense in the state of the job
 */
export function jobAfter(job: JobRecord, act: JobAct, now: number, reason?: JobReason): JobRecord | undefined {
  const state = nextState(job.state, act);
  if (state === undefined) return undefined;
  const { reason: _before, ...rest } = job;
  return {
    ...rest,
    state,
    ...(reason !== undefined && { reason }),
    ...(state === "running" && { startedAt: job.startedAt ?? now }),
    ...(hasEnded({ state }) && { endedAt: now }),
  };
}
