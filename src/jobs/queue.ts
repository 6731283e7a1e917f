/**
 * Who streams next when there are more orders than may run at once.
 *
 * A stream that waits for its source or for space has no place among those that run: otherwise a few dead sources would stop
 * everybody. When it goes on by itself there may be more than `maxStreams` for a while, and nobody new gets a turn meanwhile.
 */
import type { JobRecord } from "./records.ts";

/** Whether a job stands in the queue for its turn. */
export function isQueued(job: Pick<JobRecord, "state" | "reason">): boolean {
  return job.state === "created" || (job.state === "waiting" && job.reason?.code === "queued");
}

/**
 * The jobs to be started now: by priority, and the longest there first. Their times do not say who that is: clocks are set.
 *
 * @param jobs all that have not ended, in the order in which they came
 */
export function nextToRun(jobs: readonly JobRecord[], maxStreams: number): JobRecord[] {
  const running = jobs.filter(({ state }) => state === "running").length;
  return jobs
    .filter(isQueued)
    .sort((a, b) => b.priority - a.priority)
    .slice(0, Math.max(0, maxStreams - running));
}
