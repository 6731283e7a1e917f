/**
 * Notices that an open file has lost its last name: it was deleted, or another file was renamed over it. Its bytes are all there
 * as long as it is open, and gone afterwards.
 *
 * The kernel tells (inotify(7), IN_ATTRIB: the number of links has changed), nobody polls. What is watched is the open file, by
 * /proc/self/fd, and not whatever has its path by now. Events say little of what happened, and may be of something else, so fstat
 * decides: no links, no name. A file without a name never gets one again.
 *
 * Only for local files: on others both calls may wait for another machine, and what another machine deletes is not told.
 */
import { type FSWatcher, fstatSync, watch } from "node:fs";

/** A watch that has begun. */
export interface FileWatch {
  /** To be called before the descriptor is closed. */
  close(): void;
}

/**
 * Watches an open regular file; the process does not stay alive for it.
 *
 * @param onDeleted called once, never before this returns
 * @returns undefined where files can't be watched: another file system, no /proc, too many watches
 */
export function watchDeletion(fd: number, onDeleted: () => void): FileWatch | undefined {
  let watcher: FSWatcher;
  let closed = false;
  const look = (): void => {
    if (closed || fstatSync(fd).nlink > 0) return;
    close();
    onDeleted();
  };
  const close = (): void => {
    closed = true;
    watcher.close();
  };
  try {
    watcher = watch(`/proc/self/fd/${fd}`, { persistent: false }, look);
  } catch {
    return undefined;
  }
  watcher.on("error", close);
  // Of what happened before there is no event.
  setImmediate(look).unref();
  return { close };
}
