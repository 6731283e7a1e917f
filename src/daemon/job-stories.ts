/** What is told of a stream, and remembered with its record: what happened, why, and what happens next. */
import type { ErrorCode } from "../errors/index.ts";
import type { JobReason, JobRecord } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { EventFacts, EventHub } from "./event-hub.ts";

export class JobStories {
  readonly #events: EventHub;

  constructor(events: EventHub) {
    this.#events = events;
  }

  /** @param atOnce whether there is a place for it */
  created(name: string, job: JobRecord, atOnce: boolean): Promise<void> {
    const limit = job.speed === undefined ? "" : `, at most ${job.speed} bytes a second`;
    const next = atOnce ? "it begins at once" : "as many run as may run at once: its turn comes";
    const down = job.base === undefined ? "" : ` down to '${shownReference(job.base.reference)}'`;
    const message = `A stream of '${name}'${down} was ordered (${job.missingBytes} bytes are missing${limit}); ${next}`;
    return this.#events.tellWith(job, "job-created", message, { disk: name, job: job.id });
  }

  changed(name: string, before: JobRecord, job: JobRecord): Promise<void> {
    const facts = { disk: name, job: job.id, ...restOf(job), ...factsOf(job.reason) };
    const { missingBytes, copiedBytes, reason } = job;
    const why = reason?.message ?? "";
    switch (job.state) {
      case "running": {
        const after = before.reason === undefined ? "" : ` after a wait (${before.reason.message})`;
        const again = before.startedAt === undefined ? "begins" : "goes on";
        return this.#events.tellWith(
          job,
          "job-started",
          `The stream of '${name}' ${again} at byte ${job.offset}${after}: ${missingBytes} bytes are missing, and it ends by itself when none is`,
          facts,
        );
      }
      case "waiting": {
        const next =
          reason?.code === "queued" ? "it goes on by itself" : "local data is served on, and it goes on by itself";
        return this.#events.tellWith(job, "job-waiting", `The stream of '${name}' waits: ${why}; ${next}`, facts);
      }
      case "paused":
        return this.#events.tellWith(
          job,
          "job-paused",
          `The stream of '${name}' is paused with ${missingBytes} bytes missing, also over restarts, until it is resumed`,
          facts,
        );
      case "completed": {
        const next = job.base === undefined ? "the disk stands alone" : "the disk lies over the base of the stream";
        return this.#events.tellWith(
          job,
          "job-completed",
          `The stream of '${name}' is complete, since nothing is missing that it was to fetch: ${copiedBytes} bytes were fetched; ${next}`,
          facts,
        );
      }
      case "cancelled":
        return this.#events.tellWith(
          job,
          "job-cancelled",
          `The stream of '${name}' has ended: ${why}; ${missingBytes} bytes are missing yet, and a new stream goes on with those`,
          facts,
        );
      case "failed":
        return this.#events.tellWith(
          job,
          "job-failed",
          `The stream of '${name}' has failed: ${why}. What was fetched stays; start it again when that is mended`,
          facts,
        );
      default:
        return this.#events.save(job);
    }
  }

  hydrated(name: string): Promise<void> {
    return this.#events.tell("hydrated", `Nothing is missing in '${name}' any more: it needs its source no longer`, {
      disk: name,
    });
  }
}

/** The range that is not done yet. */
function restOf({ offset, length }: JobRecord): EventFacts {
  return offset < length ? { offset, length: length - offset } : {};
}

function factsOf(reason: JobReason | undefined): EventFacts {
  if (reason === undefined) return {};
  const { code, offset, length } = reason;
  const known =
    code === "cancelled" || code === "paused" || code === "queued" ? {} : { code: code satisfies ErrorCode };
  return { ...known, ...(offset !== undefined && { offset }), ...(length !== undefined && { length }) };
}
