/**
 * Streams of the daemon's disks, watched from a shell: the job is the daemon's, so that Ctrl-C, a closed terminal or a restart of the
 * daemon end the watching at most.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Job } from "../api/index.ts";
import type { DaemonClient } from "../client/index.ts";
import { ERROR_TABLE, type ErrorCode, StreamdiskError } from "../errors/index.ts";
import { hasEnded } from "../jobs/index.ts";
import { mayComeBack, withDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { interruptible } from "./interrupt.ts";
import { showJob } from "./job-command.ts";
import { printJson, printJsonLine, printLines, printWarnings } from "./output.ts";
import { ProgressMeter } from "./progress.ts";
import { placeForDaemon } from "./targets.ts";
import { formatDuration, formatSize } from "./units.ts";

export interface DiskStreamFlags extends DaemonFlags {
  readonly base?: string;
  readonly speed?: number;
  readonly priority?: number;
  readonly detach?: boolean;
  readonly offset?: number;
  readonly length?: number;
  readonly progress?: boolean;
}

const LOOK_MS = 300;
/** How long a daemon may be away: it may be being restarted. */
const AWAY_MS = 60_000;

/** Starts a stream, or finds the one that is under way, and waits for its end unless it is to be left alone. */
export async function streamDisk(disk: string, flags: DiskStreamFlags): Promise<void> {
  await withDaemon(flags, async (client) => {
    const job = await startOrFind(client, disk, flags);
    if (flags.detach) showJob(job, flags);
    else await follow(client, job, flags);
  });
}

/** One increment. @returns whether nothing is missing any more */
export async function stepDisk(disk: string, flags: DiskStreamFlags): Promise<boolean> {
  return withDaemon(flags, async (client) => {
    const { offset, length } = flags;
    const body = { ...(offset !== undefined && { offset }), ...(length !== undefined && { length }) };
    const result = await client.call("stepStream", { params: { disk }, body });
    if (flags.json) printJson(result);
    else printLines(String(result.next));
    return result.done;
  });
}

/** Waits for the end of a stream that there is, and says what has become of it unless as JSON. */
export async function followStream(client: DaemonClient, disk: string, { json }: DaemonFlags): Promise<void> {
  const job = await client.call("streamInfo", { params: { disk } });
  if (json) await watched(client, job, { progress: false });
  else await follow(client, job, {});
}

async function follow(client: DaemonClient, job: Job, flags: DiskStreamFlags): Promise<void> {
  const ended = await watched(client, job, flags);
  if (!flags.json) printLines(ended);
}

/** Watches until the end. Ctrl-C ends the watching, and nothing else. @returns a sentence of how it has ended */
function watched(client: DaemonClient, job: Job, flags: DiskStreamFlags): Promise<string> {
  const next = `watch it with 'streamdisk stream ${job.disk}', end it with 'streamdisk cancel ${job.disk}'`;
  const goesOn = `The stream of '${job.disk}' goes on in the daemon: ${next}`;
  return interruptible((signal) => watch(client, job, flags, signal), goesOn);
}

async function startOrFind(
  client: DaemonClient,
  disk: string,
  { base, speed, priority }: DiskStreamFlags,
): Promise<Job> {
  const place = base === undefined ? {} : { base: placeForDaemon(base) };
  const body = { ...place, ...(speed !== undefined && { speed }), ...(priority !== undefined && { priority }) };
  try {
    return await client.call("startStream", { params: { disk }, body });
  } catch (error) {
    if (!(error instanceof StreamdiskError) || error.code !== "in-use") throw error;
    const job = await client.call("streamInfo", { params: { disk } });
    if (job.state === "paused" || hasEnded(job)) throw error;
    printWarnings([`'${disk}' has a stream already: this is how that one is`]);
    return job;
  }
}

async function watch(client: DaemonClient, first: Job, flags: DiskStreamFlags, signal: AbortSignal): Promise<string> {
  const meter = new ProgressMeter(flags.json && !flags.progress ? false : flags.progress);
  const startedAt = performance.now();
  let job = first;
  let said = "";
  let awaySince: number | undefined;
  try {
    for (;;) {
      const text = JSON.stringify(job);
      if (flags.json && text !== said) printJsonLine(job);
      said = text;
      meter.update(momentOf(job, awaySince !== undefined));
      if (hasEnded(job)) break;
      await sleep(LOOK_MS, undefined, { signal });
      try {
        job = await jobNow(client, job, signal);
        awaySince = undefined;
      } catch (error) {
        if (!mayComeBack(error)) throw error;
        awaySince ??= performance.now();
        if (performance.now() - awaySince > AWAY_MS) throw error;
      }
    }
  } finally {
    meter.finish();
  }
  throwFailure(job);
  const took = formatDuration(performance.now() - startedAt);
  const how = job.base === undefined ? "stands alone" : `lies over '${job.base}'`;
  return `'${job.disk}' ${how} now: ${formatSize(job.localBytes)} local; ${formatSize(job.copiedBytes)} fetched in ${took}`;
}

/** The job as it is now, also when another one has come after it. */
async function jobNow(client: DaemonClient, { id, disk }: Job, signal: AbortSignal): Promise<Job> {
  const last = await client.call("streamInfo", { params: { disk } }, { signal });
  if (last.id === id) return last;
  const { jobs } = await client.call("listJobs", { query: { disk, limit: 1000 } }, { signal });
  return jobs.find((job) => job.id === id) ?? last;
}

function momentOf({ length, missingBytes, rate, etaSeconds, state, reason }: Job, away: boolean) {
  const note = away ? "the daemon does not answer" : noteOf(state, reason);
  return { done: length - missingBytes, total: length, rate, eta: etaSeconds, note };
}

function noteOf(state: Job["state"], reason: Job["reason"]): string | undefined {
  if (state === "created" || reason?.code === "queued") return "waiting for its turn";
  if (state === "paused") return "paused";
  if (state !== "waiting") return undefined;
  const next = reason?.retryInMs === undefined ? "" : `, next try in ${formatDuration(reason.retryInMs)}`;
  return `waiting: ${reason?.message ?? "-"}${next}`;
}

function throwFailure({ state, reason, disk }: Job): void {
  if (state === "completed") return;
  if (state === "cancelled")
    throw new StreamdiskError("shutdown", `The stream of '${disk}' was cancelled; what was fetched stays`);
  const code = reason?.code ?? "io";
  const known = code in ERROR_TABLE ? (code as ErrorCode) : "io";
  throw new StreamdiskError(known, `The stream of '${disk}' has failed: ${reason?.message ?? "nobody knows why"}`);
}
