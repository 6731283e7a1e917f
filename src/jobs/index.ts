export type { EventFeed } from "./event-feed.ts";
export { fairShares, type Taker } from "./fair-shares.ts";
export { ENDED_STATES, hasEnded, type JobAct, jobAfter, nextState, UNFINISHED_STATES } from "./life-cycle.ts";
export type {
  Accelerator,
  Architecture,
  MachineCpu,
  MachineDisk,
  MachineEndRecord,
  MachineExport,
  MachineImage,
  MachineRecord,
  MachineSpec,
} from "./machine-record.ts";
export { isQueued, nextToRun } from "./queue.ts";
export {
  type DeployedMachine,
  type DeploymentRecord,
  type DiskOwner,
  type DiskRecord,
  type DiskSettings,
  type DomainRecord,
  EVENT_TYPES,
  type EventRecord,
  type EventType,
  type ExportAddress,
  type ExportRecord,
  type JobReason,
  type JobRecord,
  type JobState,
  type SpeedLimitRecord,
} from "./records.ts";
export type { EventQuery, JobQuery, Store } from "./store.ts";
