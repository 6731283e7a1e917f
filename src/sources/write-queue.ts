/**
 * The writes of one file, one after the other but for small ones: the kernel takes one at a time (the lock of the inode), and a
 * thread that waits for its turn spins on a processor that others need. While one is under way others gather; what continues it
 * in the file goes in one call with it.
 */
import { write, writev } from "node:fs";

/** Told how many bytes were written, and why not all. */
export type WriteEnded = (error: NodeJS.ErrnoException | null, done: number) => void;

interface Write {
  readonly offset: number;
  readonly data: Uint8Array;
  readonly ended: WriteEnded;
}

/** Writes of so many bytes together may be under way at once. */
const SMALL = 64 * 1024;
/** What goes in one call at most, unless one write alone is more. */
const MOST_JOINED = 1024 * 1024;
const MOST_PIECES = 64;
/** Linux moves no more in one call (write(2), "Notes"). */
const TRANSFER_A_CALL = 0x7ffff000;

export class WriteQueue {
  readonly #fd: number;
  readonly #waiting: Write[] = [];
  /** Bytes under way. */
  #underWay = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** @param data stays as it is until `ended` is called */
  add(offset: number, data: Uint8Array, ended: WriteEnded): void {
    this.#waiting.push({ offset, data, ended });
    this.#begin();
  }

  #begin(): void {
    for (;;) {
      const [next] = this.#waiting;
      if (next === undefined || (this.#underWay > 0 && this.#underWay + next.data.length > SMALL)) return;
      this.#perform(this.#take(this.#underWay === 0 ? MOST_JOINED : SMALL - this.#underWay));
    }
  }

  /** Takes the first write, and those after it that continue it. */
  #take(most: number): Write[] {
    const taken: Write[] = [];
    let bytes = 0;
    for (const write of this.#waiting) {
      const [first] = taken;
      const joins = first === undefined || write.offset === first.offset + bytes;
      if (!joins || taken.length === MOST_PIECES || (first !== undefined && bytes + write.data.length > most)) break;
      taken.push(write);
      bytes += write.data.length;
    }
    this.#waiting.splice(0, taken.length);
    return taken;
  }

  #perform(writes: readonly Write[]): void {
    const offset = writes[0]?.offset ?? 0;
    const total = writes.reduce((sum, { data }) => sum + data.length, 0);
    let left = writes.map(({ data }) => data);
    let done = 0;
    this.#underWay += total;
    const step = (): void => {
      const [data] = left;
      if (left.length > 1) writev(this.#fd, left, offset + done, next);
      else write(this.#fd, data as Uint8Array, 0, Math.min(total - done, TRANSFER_A_CALL), offset + done, next);
    };
    const next = (error: NodeJS.ErrnoException | null, count: number): void => {
      done += count;
      if (error === null && done < total) {
        left = behind(left, count);
        step();
        return;
      }
      this.#underWay -= total;
      this.#begin();
      end(writes, error, done);
    };
    step();
  }
}

/** What of some pieces comes after their first bytes. */
function behind(pieces: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skipped = bytes;
  const left: Uint8Array[] = [];
  for (const piece of pieces) {
    if (skipped < piece.length) left.push(piece.subarray(skipped));
    skipped = Math.max(0, skipped - piece.length);
  }
  return left;
}

/** Those that were written whole have succeeded, whatever became of the others. */
function end(writes: readonly Write[], error: NodeJS.ErrnoException | null, done: number): void {
  let left = done;
  for (const { data, ended } of writes) {
    const part = Math.min(left, data.length);
    left -= part;
    ended(part === data.length ? null : error, part);
  }
}
