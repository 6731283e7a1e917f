/** The calls of the API that are about streams: of disks of the daemon's, and of disks of domains. */
import type { CheckedInput, RouteName, RouteResult } from "../api/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { JobRecord, Store } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { baseLayer } from "./disk-base.ts";
import type { Disks } from "./disks.ts";
import { type Domains, isDomainDisk } from "./domains.ts";
import type { JobRunner } from "./job-runner.ts";
import type { Turns } from "./turns.ts";
import { jobView } from "./views.ts";

type Input<N extends RouteName> = CheckedInput<N>;
type Result<N extends RouteName> = Promise<RouteResult<N>>;

export interface StreamCallsParts {
  readonly store: Store;
  readonly runner: JobRunner;
  readonly disks: Disks;
  readonly domains: Domains;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
}

export class StreamCalls {
  readonly #store: Store;
  readonly #runner: JobRunner;
  readonly #disks: Disks;
  readonly #domains: Domains;
  readonly #allowed: AllowedPaths;
  readonly #options: DaemonOptions;

  constructor({ store, runner, disks, domains, allowed, options }: StreamCallsParts) {
    this.#store = store;
    this.#runner = runner;
    this.#disks = disks;
    this.#domains = domains;
    this.#allowed = allowed;
    this.#options = options;
  }

  /** @param group of streams that fetch the same */
  async start({ params, body }: Input<"startStream">, group?: string): Result<"startStream"> {
    const speed = body.speed ?? this.#options.speed;
    const { priority } = body;
    const order = { priority, ...(speed !== undefined && { speed }), ...(group !== undefined && { group }) };
    if (isDomainDisk(params.disk)) {
      if (body.base !== undefined) {
        const message = `'${params.disk}' is a machine's own disk, and its stream goes down to no base: leave out 'base'`;
        throw new StreamdiskError("invalid-argument", message, { node: params.disk });
      }
      return this.#domains.act(params.disk, async (id) => this.#jobNow(await this.#runner.start(id, order)));
    }
    return this.#disks.act(params.disk, async (served, { record }) => {
      if (record.settings.readOnly) {
        const message = `The disk '${params.disk}' is served read-only: nothing can be kept in its image`;
        throw new StreamdiskError("invalid-argument", message, { node: params.disk });
      }
      const base = body.base === undefined ? undefined : await baseLayer(record, served, body.base, this.#allowed);
      return this.#jobNow(await this.#runner.start(record.id, { ...order, ...(base !== undefined && { base }) }));
    });
  }

  async step({ params, body }: Input<"stepStream">): Result<"stepStream"> {
    const { offset, length } = body;
    const step = { length, ...(offset !== undefined && { offset }) };
    if (isDomainDisk(params.disk)) {
      return this.#domains.act(params.disk, async (id, disk) => {
        this.#refuseRunning(params.disk, id);
        return disk.step(step);
      });
    }
    return this.#disks.act(params.disk, async (served, { record }) => {
      this.#refuseRunning(params.disk, record.id);
      return served.step(step);
    });
  }

  /** A step and a stream at once would be in each other's way. */
  #refuseRunning(name: string, id: string): void {
    const job = this.#runner.active(id)?.record;
    if (job === undefined || job.state === "paused") return;
    const message = `The disk '${name}' has a stream, which is ${job.state}: pause or cancel it first, or let it run`;
    throw new StreamdiskError("in-use", message, { node: name });
  }

  async info({ params }: Input<"streamInfo">): Result<"streamInfo"> {
    const { id } = await this.#placeOf(params.disk);
    const job = await this.of(id);
    if (job !== undefined) return job;
    const message = `The disk '${params.disk}' has had no stream yet: start one with stream`;
    throw new StreamdiskError("not-found", message, { node: params.disk });
  }

  pause({ params }: Input<"pauseStream">): Result<"pauseStream"> {
    return this.#actOnJob(params.disk, (id) => this.#runner.pause(id));
  }

  resume({ params }: Input<"resumeStream">): Result<"resumeStream"> {
    return this.#actOnJob(params.disk, (id) => this.#runner.resume(id));
  }

  cancel({ params }: Input<"cancelStream">): Result<"cancelStream"> {
    return this.#actOnJob(params.disk, (id) => this.#runner.cancel(id));
  }

  setSpeed({ params, body }: Input<"setSpeed">): Result<"setSpeed"> {
    return this.#actOnJob(params.disk, (id) => this.#runner.setSpeed(id, body.speed ?? undefined));
  }

  async list({ query }: Input<"listJobs">): Result<"listJobs"> {
    const { disk, state, before, limit } = query;
    const ids = disk === undefined ? {} : { disk: (await this.#placeOf(disk)).id };
    const jobs = await this.#store.jobs({
      ...ids,
      ...(state !== undefined && { states: [state] }),
      ...(before !== undefined && { before }),
      limit: limit + 1,
    });
    const page = jobs.slice(0, limit);
    const next = jobs.length > limit ? page.at(-1)?.id : undefined;
    return { jobs: page.map((job) => this.#jobNow(job)), ...(next !== undefined && { next }) };
  }

  /** The stream of a disk that has not ended, or its last; by the id under which its jobs are remembered. */
  async of(id: string): Promise<RouteResult<"streamInfo"> | undefined> {
    return (await this.ofEach([id])).get(id);
  }

  /** Of each disk the stream that has not ended, or the last. */
  async ofEach(ids: readonly string[]): Promise<Map<string, RouteResult<"streamInfo">>> {
    const idle = ids.filter((id) => this.#runner.active(id) === undefined);
    const last = idle.length === 0 ? [] : await this.#store.lastJobs(idle);
    const active = ids.flatMap((id) => this.#runner.active(id)?.record ?? []);
    return new Map([...last, ...active].map((job) => [job.disk, this.#jobNow(job)]));
  }

  /** Does something with the job of a disk, in the disk's turn; the disk need not be open for it. */
  async #actOnJob(name: string, act: (id: string) => Promise<JobRecord>): Result<"streamInfo"> {
    const { id, turns } = await this.#placeOf(name);
    return turns.run(async () => this.#jobNow(await act(id)));
  }

  /** By which a disk has its jobs, whoever owns it, and where acts upon it wait for each other. */
  async #placeOf(name: string): Promise<{ readonly id: string; readonly turns: Turns }> {
    if (isDomainDisk(name)) {
      const { id, held } = await this.#domains.disk(name);
      return { id, turns: held.turns };
    }
    const { record, turns } = this.#disks.demand(name);
    return { id: record.id, turns };
  }

  #jobNow(job: JobRecord): RouteResult<"streamInfo"> {
    const active = this.#runner.active(job.disk);
    return active?.record.id === job.id ? jobView(active.record, active.pulse) : jobView(job);
  }
}
