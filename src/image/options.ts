import type { FormatName } from "../formats/index.ts";
import type { SourceOptions } from "../sources/index.ts";

/** What every operation on an image that is there takes. */
export interface ImageOptions {
  /** Given, it is believed. Absent, the first bytes of the file decide. */
  readonly format?: FormatName;
  /** Files and directories that the image may name as its backing file, beside those below its own directory; or "any". */
  readonly allowBacking?: readonly string[] | "any";
  /** Certificates and keys for sources that speak TLS. */
  readonly sourceOptions?: SourceOptions;
}
