/**
 * Where logs live that must survive a process and must not survive the machine: a directory on tmpfs,
 * `/dev/shm/streamdisk-UID`, or the one that `STREAMDISK_LOG_DIR` names, of whatever file system.
 *
 * Everybody may make a directory in /dev/shm, under our name too. So it counts only if it is a directory and no link, this
 * user's, and writable by nobody else; then nobody else can put anything into it, or another in its place.
 */
import { lstatSync, mkdirSync, rmdirSync, type Stats, statfsSync } from "node:fs";
import { wrapSystemError } from "../errors/index.ts";
import { bootId as readBootId } from "./boot-id.ts";
import { factsOf } from "./file-system.ts";

const SHARED_MEMORY = "/dev/shm";
const WRITABLE_BY_OTHERS = 0o022;

export interface LogDirectory {
  readonly path: string;
  /** Names the current run of this machine, 32 hexadecimal digits. */
  readonly bootId: string;
  /** Whether it is ours to make and to remove. */
  readonly own: boolean;
}

/** @returns the directory, which may have to be made yet, or why there is none, as a clause */
export function findLogDirectory(): LogDirectory | string {
  const bootId = readBootId();
  if (bootId === undefined) return "this system has no /proc/sys/kernel/random/boot_id";
  const named = process.env.STREAMDISK_LOG_DIR;
  const path = named || `${SHARED_MEMORY}/streamdisk-${process.getuid?.() ?? "user"}`;
  try {
    if (!named && !factsOf(statfsSync(SHARED_MEMORY)).tmpfs) return `${SHARED_MEMORY} is no tmpfs`;
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined && named) return `'${path}' (STREAMDISK_LOG_DIR) is not there`;
    return (stat && objection(path, stat)) ?? { path, bootId, own: !named };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * Makes our own directory when it is not there.
 *
 * @throws {StreamdiskError}
 */
export function makeLogDirectory(directory: LogDirectory): void {
  if (!directory.own) return;
  try {
    mkdirSync(directory.path, { mode: 0o700 });
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
    if (!exists) throw wrapSystemError(error, directory.path, "make the directory");
  }
}

/** Removes our own directory once it is empty. */
export function removeLogDirectory(directory: LogDirectory): void {
  if (!directory.own) return;
  try {
    rmdirSync(directory.path);
  } catch {
    // Other logs are in it, or it is gone.
  }
}

function objection(path: string, stat: Stats): string | undefined {
  if (!stat.isDirectory()) return `'${path}' is not a directory`;
  if (stat.uid !== process.getuid?.()) return `'${path}' belongs to another user (uid ${stat.uid})`;
  if ((stat.mode & WRITABLE_BY_OTHERS) !== 0) return `'${path}' can be written by others`;
  return undefined;
}
