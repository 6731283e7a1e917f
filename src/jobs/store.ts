/**
 * The port to whatever remembers for a daemon. All of it is durable when its promise resolves. Records are replaced whole; the
 * store knows no life cycle, and keeps what it is given. To delete what is not there is no error. Once closed, all else is `shutdown`.
 */
import type {
  DeploymentRecord,
  DiskRecord,
  DomainRecord,
  EventRecord,
  ExportRecord,
  JobRecord,
  JobState,
  SpeedLimitRecord,
} from "./records.ts";

export interface JobQuery {
  /** Id of a disk. */
  readonly disk?: string;
  readonly states?: readonly JobState[];
  /** Only jobs made before this one, which is how a long list is read on. */
  readonly before?: string;
  readonly limit: number;
}

export interface EventQuery {
  /** Only events with a greater id. @default 0 */
  readonly after?: number;
  /** Name of a disk. */
  readonly disk?: string;
  readonly limit: number;
}

export interface Store extends AsyncDisposable {
  /** In the order of their names. */
  disks(): Promise<DiskRecord[]>;
  /** Adds a record, or takes the place of the one with its id. @throws {StreamdiskError} `exists` when another has its name */
  putDisk(disk: DiskRecord): Promise<void>;
  /** Its jobs stay as history. */
  deleteDisk(id: string): Promise<void>;

  exports(): Promise<ExportRecord[]>;
  /** @throws {StreamdiskError} `exists` when there is one of that name */
  addExport(record: ExportRecord): Promise<void>;
  /** Takes the place of the one of its name; when there is none, nothing is kept. */
  putExport(record: ExportRecord): Promise<void>;
  deleteExport(name: string): Promise<void>;

  /** In the order of their names. */
  domains(): Promise<DomainRecord[]>;
  /** @throws {StreamdiskError} `exists` when there is one of that name */
  addDomain(record: DomainRecord): Promise<void>;
  /** Takes the place of the one of its name; when there is none, nothing is kept. */
  putDomain(record: DomainRecord): Promise<void>;
  /** The jobs of its disks stay as history. */
  deleteDomain(name: string): Promise<void>;

  /** In the order of their names. */
  deployments(): Promise<DeploymentRecord[]>;
  /** Adds a record, or takes the place of the one of its name. */
  putDeployment(deployment: DeploymentRecord): Promise<void>;
  deleteDeployment(name: string): Promise<void>;

  /**
   * In the order in which they were first put, the newest first: the clock has no say in it.
   *
   * @throws {StreamdiskError} `not-found` when there is no job `before`
   */
  jobs(query: JobQuery): Promise<JobRecord[]>;
  /** The newest job of each of these disks that has had one, in no order. */
  lastJobs(disks: readonly string[]): Promise<JobRecord[]>;
  job(id: string): Promise<JobRecord | undefined>;
  putJob(job: JobRecord): Promise<void>;

  /** In the order of their places. */
  speedLimits(): Promise<SpeedLimitRecord[]>;
  /** Adds a limit, or takes the place of the one of that place. */
  putSpeedLimit(limit: SpeedLimitRecord): Promise<void>;
  deleteSpeedLimit(place: string): Promise<void>;

  /**
   * Gives it the next id.
   *
   * @param job a record that is put with it: both or neither
   */
  addEvent(event: Omit<EventRecord, "id">, job?: JobRecord): Promise<EventRecord>;
  /** In the order of their ids. */
  events(query: EventQuery): Promise<EventRecord[]>;
  /** Id of the newest event there has been, forgotten or not; 0 before the first. */
  lastEvent(): Promise<number>;
  /** Forgets all but the newest events, and all but the newest jobs that have ended. */
  prune(keep: { readonly events: number; readonly jobs: number }): Promise<void>;

  close(): Promise<void>;
}
