import type { RunDaemonOptions, RunningDaemon } from "./run-daemon.ts";
import type { DaemonSettings } from "./settings.ts";

/**
 * Starts a daemon: see `runDaemon`. What it is made of is loaded by then, since whoever only looks for one has no use for it, and
 * SQLite last of all.
 */
export async function startDaemon(settings: DaemonSettings, options: RunDaemonOptions): Promise<RunningDaemon> {
  const { runDaemon } = await withoutSqliteWarning(() => import("./run-daemon.ts"));
  return runDaemon(settings, options);
}

/** Node.js 22 warns whoever loads `node:sqlite` that it is experimental. What is used of it is the same in 24. */
async function withoutSqliteWarning<T>(load: () => Promise<T>): Promise<T> {
  const { emitWarning } = process;
  process.emitWarning = (...args: unknown[]): void => {
    if (!String(args[0]).startsWith("SQLite is an experimental feature")) Reflect.apply(emitWarning, process, args);
  };
  try {
    return await load();
  } finally {
    process.emitWarning = emitWarning;
  }
}
