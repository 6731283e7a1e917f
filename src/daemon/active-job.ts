/** A job that has not ended, and what becomes of it by what its stream tells. */
import type { JobReason, JobRecord } from "../jobs/index.ts";
import type { StreamProgress } from "../stream/index.ts";

/** How a running job is, beside what is remembered of it. */
export interface JobPulse {
  readonly rate: number;
  readonly eta?: number;
  readonly retryIn?: number;
  /** Bytes a second that it may take. */
  readonly share?: number;
}

export interface ActiveJob {
  record: JobRecord;
  /** What was copied before the stream that runs now. */
  copiedBefore: number;
  /** What the stream that runs now had copied when it began to wait: only more than that ends the wait, since a try may fail again. */
  copiedAtWait: number;
  /** Which turn it has: a stream that is about to begin in another one, or when it is being cancelled, does not. */
  turn?: object | undefined;
  pulse: JobPulse;
  /** On a clock that nobody sets. */
  writtenAt: number;
}

export const CALM: JobPulse = { rate: 0 };

/** What a stream's progress makes of the state of its job. */
export interface JobNews {
  readonly act: "run" | "wait";
  readonly reason?: JobReason;
}

/** Takes in how far the stream is that runs now. @returns what is to become of the state, where that changes */
export function hear(active: ActiveJob, now: StreamProgress): JobNews | undefined {
  const { offset, length, localBytes, missingBytes, copiedBytes, rate, eta, reason } = now;
  // Of a disk that could not be looked at yet nothing is known: what was remembered of it stays.
  if (length > 0) {
    const copied = active.copiedBefore + copiedBytes;
    active.record = { ...active.record, offset, length, localBytes, missingBytes, copiedBytes: copied };
  }
  active.pulse = {
    rate,
    ...(eta !== undefined && { eta }),
    ...(reason?.retryIn !== undefined && { retryIn: reason.retryIn }),
  };
  if (now.state === "running" && active.record.state === "waiting") return endOfWait(active, copiedBytes);
  if (now.state === "waiting" && reason !== undefined) {
    const { retryIn: _soon, ...why } = reason;
    active.copiedAtWait = copiedBytes;
    if (active.record.state === "running" || active.record.reason?.code !== why.code)
      return { act: "wait", reason: why };
    active.record = { ...active.record, reason: why };
  }
  return undefined;
}

function endOfWait(active: ActiveJob, copiedBytes: number): JobNews | undefined {
  // A stream that was begun anew counts from nothing.
  if (copiedBytes < active.copiedAtWait) active.copiedAtWait = 0;
  return copiedBytes > active.copiedAtWait ? { act: "run" } : undefined;
}

/** Whether the engine has a stream for it. */
export function isUnderWay({ state, reason }: JobRecord): boolean {
  return state === "running" || (state === "waiting" && reason?.code !== "queued");
}

/** Ids of disks begin with what they were called: so a job in the history has a name when its disk has gone. */
export function nameOf(diskId: string): string {
  return diskId.split("@", 1)[0] ?? diskId;
}
