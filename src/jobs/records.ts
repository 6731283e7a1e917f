/**
 * What a daemon remembers: plain data, as it is stored. The image is the truth of what is local; a record says what was asked for
 * and how far it was seen to be, so that a lost one costs a look at the image and never data.
 */
import type { ErrorCode } from "../errors/index.ts";
import type { KnownSource, SourcePolicy } from "../filters/index.ts";
import type { FormatName } from "../formats/index.ts";
import type { MachineRecord } from "./machine-record.ts";

/** How a disk is opened. All of it survives a restart. */
export interface DiskSettings {
  /** Absolute path of the image. */
  readonly image: string;
  readonly format?: FormatName;
  /** What lies below: absolute path or URI. Of an image that is adopted, in place of what the image says. */
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  readonly readOnly: boolean;
  readonly copyOnRead: boolean;
  readonly onSourceError: SourcePolicy;
}

/** Where an export listens. Who may connect to a socket is for the settings of the daemon to say. */
export type ExportAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/**
 * A disk that the daemon keeps. `creating` is written before its file is begun and `deleting` before anything goes, so that a
 * daemon which died in between finishes or undoes it when it comes back.
 */
export interface DiskRecord {
  readonly id: string;
  /** What people call it; unique. */
  readonly name: string;
  readonly state: "creating" | "ready" | "deleting";
  readonly settings: DiskSettings;
  /** Where its guest finds it, under the export name "". */
  readonly address: ExportAddress;
  /** What was learned of its sources: a loss costs a look at them. */
  readonly known?: readonly KnownSource[];
  /** Places that it needed when that was looked at last: it is told of each that it has left since, also after a restart. */
  readonly needs?: readonly string[];
  /** Virtual size of its backing file, as last seen. */
  readonly backingLength?: number;
  /** Virtual size that a new image is to have; undefined for that of its backing file, and for an image that was adopted. */
  readonly newSize?: number;
  /** Whether the file was made by the daemon: one that was adopted is never deleted. */
  readonly ownsFile: boolean;
  /** Id of the deployment whose disk it is. */
  readonly deployment?: string;
  /** With `deleting`: whether the file goes too. */
  readonly deleteFile?: boolean;
  /** Milliseconds since 1970, as all times here. */
  readonly createdAt: number;
}

/** An image that is offered to others under a name, beside the disks: the central repository's side. */
export interface ExportRecord {
  readonly name: string;
  readonly settings: DiskSettings;
  readonly address: ExportAddress;
  /** It is to go: written before anything of it does. */
  readonly removing?: boolean;
  /** Places that it needed when that was looked at last. */
  readonly needs?: readonly string[];
  readonly maxConnections?: number;
  /** Bytes of what was read last that are kept in memory. */
  readonly cache?: number;
  readonly tlsCertificates?: string;
  readonly tlsPskFile?: string;
  /** The daemon made it for deployments with disks of this kind, and removes it when none needs it. */
  readonly forDeployments?: DiskOwner;
  readonly createdAt: number;
}

/** A virtual machine: one that somebody else runs, or one of the daemon's own. */
export interface DomainRecord {
  readonly id: string;
  /** What people call it; unique. */
  readonly name: string;
  /** Absolute path of its QMP socket; absent for one of libvirt's. */
  readonly qmp?: string;
  /** Which domain of which libvirt it is: by a connection of this URI. */
  readonly libvirt?: { readonly name: string; readonly connect: string };
  /** Its description, when it was given one; otherwise QEMU is asked. */
  readonly xml?: string;
  /** Places that its disks needed when that was looked at last. */
  readonly needs?: readonly string[];
  /** A person has paused it, and nobody else lets it go on. */
  readonly pausedByUser?: boolean;
  /** Of one that the daemon runs itself. */
  readonly machine?: MachineRecord;
  /** Id of the deployment whose machine it is. */
  readonly deployment?: string;
  readonly createdAt: number;
}

/** Who opens the image of a machine's disk: its QEMU, or the daemon, which exports it. */
export type DiskOwner = "qemu" | "engine";

/**
 * A machine that was made from an image, with its disk over it. `making` is written before the first of its parts is begun, with the
 * places of all, and `removing` before the first goes: a daemon that died in between undoes or finishes it when it comes back.
 */
export interface DeploymentRecord {
  readonly id: string;
  /** What people call it, and its machine; unique. */
  readonly name: string;
  readonly state: "making" | "ready" | "removing";
  /** Absolute path or URI of the image that it was made from. */
  readonly image: string;
  readonly imageFormat?: FormatName;
  /** Name of the export of that image, from which its disk is filled. */
  readonly source: string;
  readonly owner: DiskOwner;
  /** Absolute path of its overlay. */
  readonly overlay: string;
  readonly format: "qcow2" | "qed";
  /** Virtual size that its disk is to have; undefined for that of the image. */
  readonly size?: number;
  readonly onSourceError: SourcePolicy;
  /** Bytes a second of its stream; undefined for no limit. */
  readonly speed?: number;
  /** Absent: it has a disk alone, for a machine that somebody else runs. */
  readonly machine?: DeployedMachine;
  /** Its disk stands alone, and needs neither the export nor the image. */
  readonly hydrated: boolean;
  /** With `removing`: its overlay stays. */
  readonly keepDisk?: boolean;
  /** What was done for it, in order, and how many milliseconds each took. */
  readonly steps: readonly { readonly name: string; readonly ms: number }[];
  readonly createdAt: number;
}

/** How a machine is to be: by its XML, or as a usual one with more arguments of QEMU. */
export interface DeployedMachine {
  readonly xml?: string;
  readonly args?: readonly string[];
}

/** created -> running -> (paused | waiting) -> completed | cancelled | failed. */
export type JobState = "created" | "running" | "paused" | "waiting" | "completed" | "cancelled" | "failed";

/** Why a job is not running. */
export interface JobReason {
  readonly code: ErrorCode | "cancelled" | "paused" | "queued";
  readonly message: string;
  readonly offset?: number;
  readonly length?: number;
}

/** A stream of a disk, from its order to its end. */
export interface JobRecord {
  readonly id: string;
  readonly disk: string;
  readonly state: JobState;
  readonly reason?: JobReason;
  /** Bytes a second; undefined for no limit. */
  readonly speed?: number;
  /** Absolute path or URI of the layer that stays below; undefined for none. */
  readonly base?: { readonly reference: string; readonly format: FormatName };
  /** Streams that fetch the same, once for all of them; undefined for one by itself. */
  readonly group?: string;
  /** The higher one goes first when there are more than may run at once. */
  readonly priority: number;
  /** As last seen; bytes. */
  readonly offset: number;
  readonly length: number;
  readonly localBytes: number;
  readonly missingBytes: number;
  readonly copiedBytes: number;
  readonly createdAt: number;
  readonly startedAt?: number;
  readonly endedAt?: number;
}

/** How fast the streams from a place may be together, as it was said through the API. */
export interface SpeedLimitRecord {
  /** `all`, `each` (source), a path or the beginning of a URI. */
  readonly place: string;
  /** Bytes a second; null for no limit, whatever the settings say. */
  readonly speed: number | null;
}

/** Something that happened: what, where, why, and what happens next. */
export interface EventRecord {
  /** Ascending, never used twice. */
  readonly id: number;
  readonly time: number;
  readonly type: EventType;
  /** Name of the disk. */
  readonly disk?: string;
  readonly job?: string;
  /** Path or URI of a source, without what gives access to it. */
  readonly source?: string;
  /** A sentence for people. */
  readonly message: string;
  readonly code?: ErrorCode;
  readonly offset?: number;
  readonly length?: number;
}

export const EVENT_TYPES = [
  "daemon-started",
  "daemon-stopped",
  "store-damaged",
  "disk-created",
  "disk-opened",
  "disk-failed",
  "disk-lost",
  "disk-changed",
  "disk-deleted",
  "disk-attached",
  "disk-detached",
  "domain-added",
  "domain-removed",
  "domain-paused",
  "domain-resumed",
  "domain-reset",
  "domain-started",
  "domain-stopped",
  "deployed",
  "undeployed",
  "undeploy-failed",
  "stream-fallback",
  "export-added",
  "export-removed",
  "source-lost",
  "source-back",
  "source-changed",
  "source-deleted",
  "source-free",
  "limit-changed",
  "pause-wanted",
  "job-created",
  "job-started",
  "job-paused",
  "job-waiting",
  "job-completed",
  "job-cancelled",
  "job-failed",
  "hydrated",
  "base-reached",
] as const;
export type EventType = (typeof EVENT_TYPES)[number];
