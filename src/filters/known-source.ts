import type { ZeroRanges } from "../block/index.ts";

/** What is remembered of a source on another machine, over restarts: plain data. It is good for this version of it and no other. */
export interface KnownSource {
  /** Which one it is (`sourceIdentity`). */
  readonly source: string;
  /** Bytes. */
  readonly length: number;
  /** What its server says of its version, where it says that. */
  readonly version?: string;
  /** What it has called zero: some of it, if that is a great number of ranges. */
  readonly zeroes: ZeroRanges;
}
