/** What the job runner needs of a disk, whoever owns it: one that is served here (`ServedDisk`), or a domain's (`DomainDisk`). */
import type { StreamdiskError } from "../errors/index.ts";
import type { StreamProgress } from "../stream/index.ts";

export interface StreamedDiskEvents {
  /** How far its stream is. */
  progress: [StreamProgress];
  /** Nothing is missing any more. */
  hydrated: [];
  /** Nothing is missing above the base of its stream. */
  "base-reached": [];
  "stream-failed": [StreamdiskError];
}

export interface StreamedDiskInfo {
  readonly length: number;
  readonly localBytes: number;
  readonly missingBytes: number;
  readonly hydrated: boolean;
  /** What lies below, from the top down. */
  readonly below: readonly string[];
}

export interface StreamedDisk {
  /** Why it is no more, when whatever served it has died. */
  readonly lost: StreamdiskError | undefined;
  info(): Promise<StreamedDiskInfo>;
  /**
   * What a stream is filled from, as far as it is remembered, which waits by itself until an error of `info` is over; undefined for an error
   * that no stream waits out. @default none is
   */
  waitsOut?(error: unknown): readonly string[] | undefined;
  /** Starts a stream, which tells by events how it is. */
  stream(options: { readonly base?: string; readonly speed?: number }): Promise<void>;
  /** Resolves when it has stopped, if there is one. */
  cancelStream(): Promise<void>;
  setSpeed(speed: number | undefined): Promise<void>;
  on(event: "progress", listener: (now: StreamProgress) => void): StreamedDisk;
  on(event: "hydrated" | "base-reached", listener: () => void): StreamedDisk;
  on(event: "stream-failed", listener: (error: StreamdiskError) => void): StreamedDisk;
  off(event: "progress", listener: (now: StreamProgress) => void): StreamedDisk;
  off(event: "hydrated" | "base-reached", listener: () => void): StreamedDisk;
  off(event: "stream-failed", listener: (error: StreamdiskError) => void): StreamedDisk;
}
