/**
 * Where a file has data and where it has holes, by SEEK_DATA and SEEK_HOLE (lseek(2)). Without the native calls, and on
 * file systems and devices that don't know the question, everything is data.
 */
import { nativeCalls, systemError } from "./native.ts";

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;
const EINVAL = 22;
const ENOTSUP = 95;

/** A run of bytes of a file. A hole reads as zeroes. */
export interface FileRun {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
}

/** How to ask: at most `limit` runs, and in another thread when the file system `mayHang`. */
export interface FileRunsOptions {
  readonly limit: number;
  readonly mayHang: boolean;
}

/**
 * Runs of a file from `offset` on, in order and without a gap, up to `end` or as far as `limit` runs reach.
 *
 * @param end at most the file's length: what lies past the end of a file is a hole to the kernel
 * @throws {Error} an operating system error
 */
export async function fileRuns(fd: number, offset: number, end: number, options: FileRunsOptions): Promise<FileRun[]> {
  const native = nativeCalls();
  const runs: FileRun[] = [];
  let position = offset;
  while (position < end && runs.length < options.limit) {
    const answer = native === undefined ? -EINVAL : await seek(SEEK_DATA, position);
    let hole = true;
    let next = end; // ENXIO: no data from here to the end of the file
    if (answer === -EINVAL || answer === -ENOTSUP) {
      hole = false;
    } else if (answer === position) {
      hole = false;
      // The file may have been cut short since the last call (ENXIO): what a read says then is the read's affair.
      const after = await seek(SEEK_HOLE, position);
      if (after > position) next = after;
      else if (after !== -ENXIO) throw systemError(after, "lseek");
    } else if (answer > position) {
      next = answer;
    } else if (answer !== -ENXIO) {
      throw systemError(answer, "lseek");
    }
    next = Math.min(next, end);
    runs.push({ offset: position, length: next - position, hole });
    position = next;
  }
  return runs;

  function seek(whence: number, from: number): number | Promise<number> {
    if (native === undefined) return -EINVAL;
    return options.mayHang ? native.lseekAsync(fd, from, whence) : native.lseek(fd, from, whence);
  }
}
