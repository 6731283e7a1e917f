/**
 * The life of streams: which of them runs, what becomes of it, and what is remembered of that.
 *
 * An order becomes a job, which is durable before its caller hears of it. Jobs stand in the queue (`jobs/queue.ts`) until they get
 * their turn on a disk that is open. A job that runs is a stream of the disk (`streamed-disk.ts`), which waits for a dead source by itself. To pause a
 * job, or to take its disk away for a while, its stream is cancelled: what was fetched stays in the image, and the image is the
 * truth of how far it is, so that the next stream goes on there. What is written down is what people see meanwhile: at each change
 * of state, and every few seconds.
 *
 * How fast a stream may be is what its order says, and its part of what all may take together (`stream-shares.ts`).
 *
 * Acts upon one disk's job come one at a time (`turns.ts`); what the stream tells comes at any time, and changes the record at once.
 */
import { randomUUID } from "node:crypto";
import { StreamdiskError } from "../errors/index.ts";
import {
  hasEnded,
  type JobAct,
  type JobReason,
  type JobRecord,
  jobAfter,
  nextToRun,
  type Store,
  UNFINISHED_STATES,
} from "../jobs/index.ts";
import type { StreamProgress } from "../stream/index.ts";
import { type ActiveJob, CALM, hear, isUnderWay, type JobPulse, nameOf } from "./active-job.ts";
import type { EventHub } from "./event-hub.ts";
import { JobStories } from "./job-stories.ts";
import type { Log } from "./log.ts";
import type { StreamShares } from "./stream-shares.ts";
import type { StreamedDisk } from "./streamed-disk.ts";

interface Attached {
  readonly name: string;
  readonly served: StreamedDisk;
  readonly letGo: () => void;
}

export interface JobRunnerOptions {
  readonly store: Store;
  readonly events: EventHub;
  readonly log: Log;
  readonly maxStreams: number;
  readonly shares: StreamShares;
  /** Called when nothing is missing in a disk any more, with its id. */
  readonly onHydrated: (disk: string) => void;
  /** What lies behind a place that a disk is filled from: of an export of the daemon itself the image, by which its speed is limited. */
  readonly behind: (place: string) => string;
}

const WRITE_EVERY_MS = 5_000;
const ALL = 1_000_000;

export class JobRunner {
  readonly #store: Store;
  readonly #log: Log;
  readonly #events: EventHub;
  readonly #stories: JobStories;
  readonly #maxStreams: number;
  readonly #shares: StreamShares;
  readonly #onHydrated: (disk: string) => void;
  readonly #behind: (place: string) => string;
  /** Jobs that have not ended, by the id of their disk, in the order in which they came: there is one a disk. */
  readonly #active = new Map<string, ActiveJob>();
  readonly #attached = new Map<string, Attached>();
  /** Not before what is served has been given a chance to be, and not after the end. */
  #mayRun = false;
  #stopped = false;

  constructor({ store, events, log, maxStreams, shares, onHydrated, behind }: JobRunnerOptions) {
    this.#store = store;
    this.#log = log;
    this.#events = events;
    this.#stories = new JobStories(events);
    this.#maxStreams = maxStreams;
    this.#shares = shares;
    this.#onHydrated = onHydrated;
    this.#behind = behind;
  }

  /** How many streams run. */
  get running(): number {
    return [...this.#active.values()].filter(({ record }) => record.state === "running").length;
  }

  /** Takes up what was to be done when the daemon ended. */
  async load(): Promise<void> {
    const newestFirst = await this.#store.jobs({ states: UNFINISHED_STATES, limit: ALL });
    for (const job of newestFirst.reverse()) {
      const why: JobReason = { code: "queued", message: "The daemon was started again, and its turn comes" };
      const record = jobAfter(job, "wait", Date.now(), why) ?? job;
      this.#active.set(job.disk, {
        record,
        copiedBefore: job.copiedBytes,
        copiedAtWait: 0,
        pulse: CALM,
        writtenAt: 0,
      });
    }
  }

  /** A disk is open: its job may have its turn. */
  attach(id: string, name: string, served: StreamedDisk): void {
    const progress = (now: StreamProgress): void => this.#hear(id, now);
    const hydrated = (): void => this.#hydrated(id);
    const based = (): void => this.#completed(id);
    const failed = (error: StreamdiskError): void => this.#failed(id, error);
    served.on("progress", progress).on("stream-failed", failed);
    served.on("hydrated", hydrated).on("base-reached", based);
    const letGo = (): void => {
      served.off("progress", progress).off("stream-failed", failed);
      served.off("hydrated", hydrated).off("base-reached", based);
    };
    this.#attached.set(id, { name, served, letGo });
    this.#fill();
  }

  /** A disk is to be closed, or to be left alone for a while: its job waits until it is attached again. */
  async detach(id: string, why: string): Promise<void> {
    const attached = this.#attached.get(id);
    if (attached === undefined) return;
    this.#attached.delete(id);
    const active = this.#active.get(id);
    const runs = active !== undefined && isUnderWay(active.record);
    // Also what could not be written down waits for its turn after a restart.
    if (runs) this.#becomeAnyway(active, "wait", { code: "queued", message: why });
    try {
      if (runs) await attached.served.cancelStream();
    } finally {
      attached.letGo();
      this.#fill();
    }
  }

  /** The disks that have jobs which have not ended, by their ids, also those that are not attached. */
  get disks(): string[] {
    return [...this.#active.keys()];
  }

  /** The job of a disk that has not ended, as it is now. */
  active(id: string): { readonly record: JobRecord; readonly pulse: JobPulse } | undefined {
    const active = this.#active.get(id);
    const share = this.#shares.shareOf(id);
    if (active === undefined || share === undefined) return active;
    return { record: active.record, pulse: { ...active.pulse, share } };
  }

  /** @throws {StreamdiskError} `in-use` when the disk has a job already */
  async start(id: string, order: Pick<JobRecord, "base" | "speed" | "priority" | "group">): Promise<JobRecord> {
    const { name, served } = this.#demandDisk(id);
    this.#refuseSecond(id, name);
    const { length, localBytes, missingBytes } = await served.info();
    this.#refuseSecond(id, name);
    const record: JobRecord = {
      id: randomUUID(),
      disk: id,
      state: "created",
      ...order,
      offset: 0,
      length,
      localBytes,
      missingBytes,
      copiedBytes: 0,
      createdAt: Date.now(),
    };
    const active = {
      record,
      copiedBefore: 0,
      copiedAtWait: 0,
      pulse: CALM,
      writtenAt: performance.now(),
    };
    this.#active.set(id, active);
    try {
      await this.#stories.created(name, record, this.running < this.#maxStreams);
    } catch (error) {
      this.#active.delete(id);
      throw error;
    }
    this.#fill();
    return active.record;
  }

  async pause(id: string): Promise<JobRecord> {
    const active = this.#demandJob(id);
    const { state } = active.record;
    if (state === "paused") return active.record;
    const saved = this.#become(active, "pause", {
      code: "paused",
      message: "It was paused, and goes on when it is resumed",
    });
    // What it says is awaited below, when the stream has stopped.
    saved.catch(() => {});
    if (state !== "created") await this.#attached.get(id)?.served.cancelStream();
    this.#fill();
    await saved;
    return active.record;
  }

  async resume(id: string): Promise<JobRecord> {
    const active = this.#demandJob(id);
    if (active.record.state !== "paused") return active.record;
    await this.#become(active, "resume", { code: "queued", message: "It was resumed, and its turn comes" });
    this.#fill();
    return active.record;
  }

  /** @param why a sentence */
  async cancel(id: string, why = "It was cancelled; what was fetched stays"): Promise<JobRecord> {
    const active = this.#demandJob(id);
    active.turn = undefined;
    // First the stream: it may just have come to its end.
    if (isUnderWay(active.record)) await this.#attached.get(id)?.served.cancelStream();
    if (!hasEnded(active.record)) await this.#become(active, "cancel", { code: "cancelled", message: why });
    this.#fill();
    return active.record;
  }

  async setSpeed(id: string, speed: number | undefined): Promise<JobRecord> {
    const active = this.#demandJob(id);
    const { speed: _before, ...rest } = active.record;
    active.record = { ...rest, ...(speed !== undefined && { speed }) };
    await this.#save(active);
    await this.#shares.setSpeed(id, speed);
    return active.record;
  }

  /** Starts nothing more, and writes down how far all are. States stay what they are: jobs go on with the next start. */
  stop(): void {
    this.#mayRun = false;
    this.#stopped = true;
    this.#shares.close();
    for (const active of this.#active.values()) this.#logged(this.#save(active));
  }

  /** Resolves when all that is known so far is written down. */
  settled(): Promise<void> {
    return this.#events.settled();
  }

  /** From now on jobs get their turns. */
  begin(): void {
    this.#mayRun = true;
    this.#fill();
  }

  #fill(): void {
    if (!this.#mayRun) return;
    const possible = [...this.#active].filter(([id]) => this.#attached.has(id)).map(([, { record }]) => record);
    for (const { disk } of nextToRun(possible, this.#maxStreams)) void this.#run(disk);
  }

  async #run(id: string): Promise<void> {
    const active = this.#active.get(id);
    const attached = this.#attached.get(id);
    if (active === undefined || attached === undefined) return;
    active.copiedBefore = active.record.copiedBytes;
    this.#becomeAnyway(active, "run");
    const turn = {};
    active.turn = turn;
    try {
      const { served } = attached;
      const { hydrated, below } = await served.info().catch((error: unknown) => {
        const below = served.waitsOut?.(error);
        if (below === undefined) throw error;
        return { hydrated: false, below };
      });
      // It may have been paused or taken away meanwhile.
      const isWanted = (): boolean =>
        active.turn === turn &&
        active.record.state === "running" &&
        !this.#stopped &&
        this.#attached.get(id) === attached;
      if (!isWanted()) return;
      if (hydrated) return this.#hydrated(id);
      await this.#shares.join(id, {
        speed: active.record.speed,
        sources: below.map(this.#behind),
        begin: async (speed) => {
          const { base } = active.record;
          const parts = { ...(base && { base: base.reference }), ...(speed !== undefined && { speed }) };
          if (isWanted()) await served.stream(parts);
        },
        setSpeed: (speed) => served.setSpeed(speed),
      });
    } catch (error) {
      // With its thread: then it is taken away, and opened again.
      if (attached.served.lost !== undefined) return;
      const failure = error instanceof StreamdiskError ? error : new StreamdiskError("io", String(error), {}, error);
      if (active.turn === turn && this.#attached.get(id) === attached) this.#failed(id, failure);
    }
  }

  /** The stream of the engine tells how far it is. Its end is told by other events. */
  #hear(id: string, now: StreamProgress): void {
    const active = this.#active.get(id);
    if (active === undefined || !isUnderWay(active.record)) return;
    if (now.state !== "running" && now.state !== "waiting") return;
    this.#shares.hear(id, now);
    const news = hear(active, now);
    if (news !== undefined) {
      this.#becomeAnyway(active, news.act, news.reason);
      if (news.act === "wait") this.#fill();
    } else if (performance.now() - active.writtenAt >= WRITE_EVERY_MS) this.#logged(this.#save(active));
  }

  /** Nothing is missing any more, by a stream or by a step. */
  #hydrated(id: string): void {
    this.#completed(id);
    void this.#stories.hydrated(this.#attached.get(id)?.name ?? nameOf(id));
    this.#onHydrated(id);
  }

  /** Nothing is missing that the job was to fetch. */
  #completed(id: string): void {
    const active = this.#active.get(id);
    if (active !== undefined && !hasEnded(active.record)) {
      const { state, length } = active.record;
      active.record = { ...active.record, offset: length, missingBytes: 0 };
      if (state === "paused") active.record = jobAfter(active.record, "resume", Date.now()) ?? active.record;
      if (state !== "running") active.record = jobAfter(active.record, "run", Date.now()) ?? active.record;
      this.#becomeAnyway(active, "complete");
    }
    this.#fill();
  }

  #failed(id: string, { code, message, context: { offset, length } }: StreamdiskError): void {
    const active = this.#active.get(id);
    if (active === undefined || this.#stopped || !isUnderWay(active.record)) return;
    const range = { ...(offset !== undefined && { offset }), ...(length !== undefined && { length }) };
    this.#becomeAnyway(active, "fail", { code, message, ...range });
    this.#fill();
  }

  /** Changes the state at once; resolves when that is durable. */
  #become(active: ActiveJob, act: JobAct, reason?: JobReason): Promise<void> {
    const before = active.record;
    const record = jobAfter(before, act, Date.now(), reason);
    if (record === undefined) return Promise.resolve();
    active.record = record;
    if (record.state !== "running") active.pulse = record.state === "waiting" ? { ...active.pulse, rate: 0 } : CALM;
    if (!isUnderWay(record)) this.#shares.leave(record.disk);
    if (hasEnded(record) && this.#active.get(record.disk) === active) this.#active.delete(record.disk);
    active.writtenAt = performance.now();
    return this.#stories.changed(this.#attached.get(record.disk)?.name ?? nameOf(record.disk), before, record);
  }

  /** The same where nobody waits for it: what cannot be written down is logged, and the image knows. */
  #becomeAnyway(active: ActiveJob, act: JobAct, reason?: JobReason): void {
    this.#logged(this.#become(active, act, reason));
  }

  #save(active: ActiveJob): Promise<void> {
    active.writtenAt = performance.now();
    return this.#events.save(active.record);
  }

  #logged(written: Promise<void>): void {
    written.catch((error: unknown) => this.#log.error({ err: error }, "A job could not be written down"));
  }

  #demandDisk(id: string): Attached {
    const attached = this.#attached.get(id);
    if (attached !== undefined) return attached;
    throw new StreamdiskError("in-use", `'${nameOf(id)}' is not open at the moment: try again`, { node: nameOf(id) });
  }

  #demandJob(id: string): ActiveJob {
    const active = this.#active.get(id);
    if (active !== undefined) return active;
    const name = nameOf(id);
    throw new StreamdiskError("not-found", `The disk '${name}' has no stream under way: start one with stream`, {
      node: name,
    });
  }

  #refuseSecond(id: string, name: string): void {
    const there = this.#active.get(id)?.record;
    if (there === undefined) return;
    const hint = there.state === "paused" ? "resume it" : "watch it, or cancel it first";
    throw new StreamdiskError("in-use", `The disk '${name}' has a stream already, which is ${there.state}: ${hint}`, {
      node: name,
    });
  }
}
