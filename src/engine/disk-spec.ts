import type { ErrorCode } from "../errors/index.ts";
import type { CacheSize, KnownSource, SourceCounts, SourcePolicy } from "../filters/index.ts";
import type { FormatName } from "../formats/index.ts";
import type { MapEntry } from "../image/index.ts";
import type { ServeNbdOptions, TrafficFigures } from "../nbd/index.ts";
import type { SourceOptions } from "../sources/index.ts";
import type { StreamProgress } from "../stream/index.ts";
import type { DiskChanges } from "./activity.ts";

/** A disk as a whole, as plain data: it can be sent to the thread that shall have it. */
export interface DiskSpec {
  readonly image: string;
  readonly format?: FormatName;
  /** In place of what the image says. */
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  readonly readOnly: boolean;
  readonly allowBacking: readonly string[] | "any";
  readonly sourceOptions?: SourceOptions;
  readonly copyOnRead: boolean;
  readonly onSourceError: SourcePolicy;
  /** Clients are disks that have policies of their own. */
  readonly relay?: boolean;
  /** What was read last is kept in memory, for many readers. */
  readonly cache?: CacheSize;
  readonly listen: ServeNbdOptions["listen"];
  readonly exportName: string;
  readonly maxConnections?: number;
  readonly tls?: NonNullable<ServeNbdOptions["tls"]>;
  /** What was `learned` of its sources before. */
  readonly knownSources: readonly KnownSource[];
  /** Starts a stream at once. */
  readonly stream?: StreamSpec;
}

export interface StreamSpec {
  /** Bytes a second. */
  readonly speed?: number;
  /** Bytes under way at once. */
  readonly window?: number;
  /** A layer of the disk that stays below it: only what lies above is fetched, and the link goes there in the end. Absent: none. */
  readonly base?: string;
}

/** A layer that may be the base of a stream. */
export interface BaseLayer {
  /** Absolute path or URI. */
  readonly reference: string;
  readonly format: FormatName;
}

/**
 * How the source is: `none` for a disk that stands alone, `changed` for one that is not what it was and never will be, `deleted` for a
 * local file that has no name any more, and is read on until the disk is closed.
 */
export interface SourceState {
  readonly state: "ok" | "lost" | "changed" | "deleted" | "none";
  /** Why it is not well. */
  readonly message?: string;
  /** Since when it is so, in milliseconds since 1970; absent for `none`. */
  readonly since?: number;
  /** Guest requests that wait for it. */
  readonly held: number;
}

/** What was asked of a source for one disk. */
export interface SourceFigures extends SourceCounts {
  /** As messages show it. */
  readonly uri: string;
}

/** How a disk is, now. */
export interface DiskInfo {
  readonly image: string;
  readonly uri: string;
  /** What lies below, from the top down: paths and URIs, without what gives access to them. */
  readonly below: readonly string[];
  readonly format: FormatName;
  /** Virtual size in bytes. */
  readonly length: number;
  /** That of the image right below; absent when there is none, or it has been away ever since. */
  readonly backingLength?: number;
  readonly localBytes: number;
  /** Written as zeroes in the image itself. */
  readonly zeroBytes: number;
  /** Not in the image. Of this, what the source says is zero needs no fetch. */
  readonly missingBytes: number;
  /** Whether it needs its backing file no more. */
  readonly hydrated: boolean;
  readonly clients: number;
  readonly source: SourceState;
  readonly sources: readonly SourceFigures[];
  /** Bytes that guest reads have fetched since the start. */
  readonly fetchedBytes: number;
  /** Bytes that streams have fetched since the start. */
  readonly streamedBytes: number;
  /** What guests have asked for since the start, also those that have gone. */
  readonly traffic: TrafficFigures;
  /** Of the last second; absent when nothing happened. */
  readonly load?: LoadSample;
  readonly stream?: StreamProgress;
  readonly warnings: readonly string[];
}

/** What a disk had to do in the second before `at`: how much of it a second, and what guests waited for it; 0 where there was none. */
export interface LoadSample {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Requests of guests. */
  readonly reads: number;
  readonly writes: number;
  /** Bytes of those. */
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Bytes that came from below for guest reads. */
  readonly fetchedBytes: number;
  /** Bytes that came from below for a stream. */
  readonly streamedBytes: number;
  /** Microseconds that half of the reads, and 99 of a hundred, took at most. */
  readonly readP50Us: number;
  readonly readP99Us: number;
  readonly writeP99Us: number;
}

/** Which part of a disk's map is asked for: from `offset` on, at most so many entries. */
export interface MapPart {
  readonly offset: number;
  readonly limit: number;
}

/** A part of a disk's map. */
export interface MapPage {
  readonly entries: readonly MapEntry[];
  /** Where the next part begins; absent at the end. */
  readonly next?: number;
}

/** What goes on in a disk, and how it is meanwhile. */
export interface DiskLive extends DiskChanges {
  readonly source: SourceState;
  readonly clients: number;
}

/** What a disk tells without being asked. */
export type DiskEvent =
  /** Only while it is watched. */
  | { readonly type: "live"; readonly live: DiskLive }
  | { readonly type: "progress"; readonly progress: StreamProgress }
  | { readonly type: "source"; readonly source: SourceState }
  /** The policy says "pause": whoever owns the machine is to stop it. */
  | { readonly type: "pause" }
  /** Nothing is missing any more, and the link is broken. */
  | { readonly type: "hydrated" }
  /** Nothing is missing above the base of a stream any more, and the link goes there. */
  | { readonly type: "base-reached" }
  | { readonly type: "stream-failed"; readonly code: ErrorCode; readonly message: string }
  /** More is known of its sources than before. */
  | { readonly type: "learned"; readonly known: readonly KnownSource[] }
  /** Its thread has died, and the disk with it; everything of it is let go of. */
  | { readonly type: "lost"; readonly message: string };
