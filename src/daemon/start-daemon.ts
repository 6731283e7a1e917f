import type { RunDaemonOptions, RunningDaemon } from "./run-daemon.ts";
import type { DaemonSettings } from "./settings.ts";

/** Starts a daemon: see `runDaemon`. What it is made of is loaded by then, since whoever only looks for one has no use for it. */
export async function startDaemon(settings: DaemonSettings, options: RunDaemonOptions): Promise<RunningDaemon> {
  const { runDaemon } = await import("./run-daemon.ts");
  return runDaemon(settings, options);
}
