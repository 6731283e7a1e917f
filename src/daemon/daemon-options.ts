import type { SourceOptions } from "../sources/index.ts";
import type { DaemonSettings } from "./settings.ts";

/** What a daemon is told of itself, beside where it remembers. */
export interface DaemonOptions
  extends Pick<DaemonSettings, "imageDirectory" | "allow" | "maxStreams" | "speed" | "keep"> {
  readonly version: string;
  /** Where disks have their sockets; absolute. */
  readonly socketDirectory: string;
  /** Certificates and keys for sources that speak TLS. @default none */
  readonly sourceOptions?: SourceOptions;
  /** The first pause before an image that could not be opened is tried again, in milliseconds. @default 1000 */
  readonly firstRetryMs?: number;
}

/** Whoever may use the daemon may use its disks. */
export const SOCKET_MODE = 0o600;
