import type { DaemonSettings } from "./settings.ts";
import type { StoreDamage } from "./store-damage.ts";

/** What a daemon is told of itself, beside where it remembers. */
export interface DaemonOptions
  extends Pick<
    DaemonSettings,
    | "imageDirectory"
    | "diskSocketMode"
    | "diskSocketGroup"
    | "allow"
    | "allowKeys"
    | "sourceOptions"
    | "maxStreams"
    | "speed"
    | "hostSpeed"
    | "sourceSpeed"
    | "sources"
    | "keep"
    | "emulator"
    | "accelerator"
    | "refuseQemuArguments"
  > {
  readonly version: string;
  /** Where disks have their sockets; absolute. */
  readonly socketDirectory: string;
  /** What its store had lost when it was opened. @default nothing */
  readonly damage?: readonly StoreDamage[];
  /** Where machines have theirs; absolute. */
  readonly machineDirectory: string;
  /** Names the current run of the host. @default what the system says */
  readonly bootId?: string;
  /** The first pause before an image that could not be opened is tried again, in milliseconds. @default 1000 */
  readonly firstRetryMs?: number;
}
