/**
 * Who streams next when there are more orders than may run at once.
 *
 * A stream that waits for its source or for space has no place among those that run: otherwise a few dead sources would stop
 * everybody. Streams of one group fetch what they have in common once, and have one place together. When it goes on by itself there may be more than `maxStreams` for a while, and nobody new gets a turn meanwhile.
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
  const placeOf = ({ group, id }: JobRecord): string => (group === undefined ? `job ${id}` : `group ${group}`);
  const taken = new Set(jobs.filter(({ state }) => state === "running").map(placeOf));
  const next: JobRecord[] = [];
  for (const job of jobs.filter(isQueued).sort((a, b) => b.priority - a.priority)) {
    const place = placeOf(job);
    if (!taken.has(place) && taken.size >= maxStreams) continue;
    taken.add(place);
    next.push(job);
  }
  return next;
}
