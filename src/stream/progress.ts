import type { ErrorCode } from "../errors/index.ts";

/** created -> running -> (paused | waiting) -> completed | cancelled | failed. */
export type StreamState = "created" | "running" | "paused" | "waiting" | "completed" | "cancelled" | "failed";

/** Why a stream is not running. */
export interface StreamReason {
  /** Of the error that stopped it; "cancelled" when its user did. */
  readonly code: ErrorCode | "cancelled";
  /** A sentence for people. */
  readonly message: string;
  /** The range that could not be fetched. */
  readonly offset?: number;
  readonly length?: number;
  /** `waiting`: milliseconds until the next try. */
  readonly retryIn?: number;
}

/** How far a stream is. All amounts are bytes. */
export interface StreamProgress {
  readonly state: StreamState;
  readonly reason?: StreamReason;
  /** Everything below this offset is done. */
  readonly offset: number;
  /** Virtual size of the disk. */
  readonly length: number;
  /** Data that lies in the image itself. */
  readonly localBytes: number;
  /** What is known to read as zeroes without asking the backing file: it counts as local too. */
  readonly zeroBytes: number;
  /** What is still to be done. What a base answers for good is in none of the three. */
  readonly missingBytes: number;
  /** What this run has fetched. */
  readonly copiedBytes: number;
  /** Bytes a second, lately. */
  readonly rate: number;
  /** Seconds to go at that rate; undefined while it is not known. */
  readonly eta?: number;
  /** Whether its speed is what holds it back, lately, and nothing else. */
  readonly throttled: boolean;
  /** Bytes that may be under way at once. */
  readonly window: number;
  /** What its user should know: "the file system has room for ... only". */
  readonly warnings: readonly string[];
}
