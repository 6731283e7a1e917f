/**
 * A daemon's memory that lasts as long as the process: for tests of what stands on a store. Held to the same suite as the real one
 * (store-conformance.ts).
 */
import { StreamdiskError } from "../../src/errors/index.ts";
import {
  type DeploymentRecord,
  type DiskRecord,
  type DomainRecord,
  type EventQuery,
  type EventRecord,
  type ExportRecord,
  hasEnded,
  type JobQuery,
  type JobRecord,
  type SpeedLimitRecord,
  type Store,
} from "../../src/jobs/index.ts";

export class MemoryStore implements Store {
  readonly #disks = new Map<string, DiskRecord>();
  readonly #exports = new Map<string, ExportRecord>();
  readonly #domains = new Map<string, DomainRecord>();
  readonly #deployments = new Map<string, DeploymentRecord>();
  /** In the order in which they were made: a map keeps the place of a key whose value is replaced. */
  readonly #jobs = new Map<string, JobRecord>();
  readonly #speedLimits = new Map<string, SpeedLimitRecord>();
  #events: EventRecord[] = [];
  #lastEvent = 0;
  #closed = false;

  async disks(): Promise<DiskRecord[]> {
    this.#check();
    return [...this.#disks.values()].sort(byName).map(copy);
  }

  async putDisk(disk: DiskRecord): Promise<void> {
    this.#check();
    const rival = [...this.#disks.values()].find(({ id, name }) => name === disk.name && id !== disk.id);
    if (rival !== undefined) throw taken("disk", disk.name);
    this.#disks.set(disk.id, copy(disk));
  }

  async deleteDisk(id: string): Promise<void> {
    this.#check();
    this.#disks.delete(id);
  }

  async exports(): Promise<ExportRecord[]> {
    this.#check();
    return [...this.#exports.values()].sort(byName).map(copy);
  }

  async addExport(record: ExportRecord): Promise<void> {
    this.#check();
    if (this.#exports.has(record.name)) throw taken("export", record.name);
    this.#exports.set(record.name, copy(record));
  }

  async putExport(record: ExportRecord): Promise<void> {
    this.#check();
    if (this.#exports.has(record.name)) this.#exports.set(record.name, copy(record));
  }

  async deleteExport(name: string): Promise<void> {
    this.#check();
    this.#exports.delete(name);
  }

  async domains(): Promise<DomainRecord[]> {
    this.#check();
    return [...this.#domains.values()].sort(byName).map(copy);
  }

  async addDomain(record: DomainRecord): Promise<void> {
    this.#check();
    if (this.#domains.has(record.name)) throw taken("domain", record.name);
    this.#domains.set(record.name, copy(record));
  }

  async putDomain(record: DomainRecord): Promise<void> {
    this.#check();
    if (this.#domains.has(record.name)) this.#domains.set(record.name, copy(record));
  }

  async deleteDomain(name: string): Promise<void> {
    this.#check();
    this.#domains.delete(name);
  }

  async deployments(): Promise<DeploymentRecord[]> {
    this.#check();
    return [...this.#deployments.values()].sort(byName).map(copy);
  }

  async putDeployment(record: DeploymentRecord): Promise<void> {
    this.#check();
    this.#deployments.set(record.name, copy(record));
  }

  async deleteDeployment(name: string): Promise<void> {
    this.#check();
    this.#deployments.delete(name);
  }

  async jobs({ disk, states, before, limit }: JobQuery): Promise<JobRecord[]> {
    this.#check();
    const newestFirst = [...this.#jobs.values()].reverse();
    const place = before === undefined ? -1 : newestFirst.findIndex(({ id }) => id === before);
    if (before !== undefined && place < 0) throw new StreamdiskError("not-found", `There is no job '${before}'`);
    return newestFirst
      .slice(place + 1)
      .filter((job) => (disk === undefined || job.disk === disk) && (states?.includes(job.state) ?? true))
      .slice(0, limit)
      .map(copy);
  }

  async lastJobs(disks: readonly string[]): Promise<JobRecord[]> {
    this.#check();
    const last = new Map([...this.#jobs.values()].map((job) => [job.disk, job]));
    return disks.flatMap((disk) => last.get(disk) ?? []).map(copy);
  }

  async job(id: string): Promise<JobRecord | undefined> {
    this.#check();
    const job = this.#jobs.get(id);
    return job && copy(job);
  }

  async putJob(job: JobRecord): Promise<void> {
    this.#check();
    this.#jobs.set(job.id, copy(job));
  }

  async speedLimits(): Promise<SpeedLimitRecord[]> {
    this.#check();
    return [...this.#speedLimits.values()].sort((a, b) => (a.place < b.place ? -1 : 1)).map(copy);
  }

  async putSpeedLimit(limit: SpeedLimitRecord): Promise<void> {
    this.#check();
    this.#speedLimits.set(limit.place, copy(limit));
  }

  async deleteSpeedLimit(place: string): Promise<void> {
    this.#check();
    this.#speedLimits.delete(place);
  }

  async addEvent(event: Omit<EventRecord, "id">, job?: JobRecord): Promise<EventRecord> {
    if (job !== undefined) await this.putJob(job);
    this.#check();
    const record = copy({ ...event, id: ++this.#lastEvent });
    this.#events.push(record);
    return copy(record);
  }

  async events({ after = 0, disk, limit }: EventQuery): Promise<EventRecord[]> {
    this.#check();
    return this.#events
      .filter((event) => event.id > after && (disk === undefined || event.disk === disk))
      .slice(0, limit)
      .map(copy);
  }

  async lastEvent(): Promise<number> {
    this.#check();
    return this.#lastEvent;
  }

  async prune(keep: { readonly events: number; readonly jobs: number }): Promise<void> {
    this.#check();
    this.#events = this.#events.slice(Math.max(0, this.#events.length - keep.events));
    const ended = [...this.#jobs.values()].filter(hasEnded);
    for (const { id } of ended.slice(0, Math.max(0, ended.length - keep.jobs))) this.#jobs.delete(id);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #check(): void {
    if (this.#closed) throw new StreamdiskError("shutdown", "The store is closed");
  }
}

/** A record as it comes back from a disk: apart from the one that went in, and without members that are undefined. */
function copy<T>(record: T): T {
  if (typeof record !== "object" || record === null) return record;
  if (Array.isArray(record)) return record.map(copy) as T;
  const kept = Object.entries(record).filter(([, value]) => value !== undefined);
  return Object.fromEntries(kept.map(([key, value]) => [key, copy(value)])) as T;
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  if (a.name === b.name) return 0;
  return a.name < b.name ? -1 : 1;
}

function taken(what: string, name: string): StreamdiskError {
  return new StreamdiskError("exists", `There is another ${what} of the name '${name}'`);
}
