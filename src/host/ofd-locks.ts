/**
 * Locks on bytes of a file that belong to an open file description (fcntl(2), "Open file description locks"): they fall
 * with the last descriptor of it, also when the process is killed, and two openings of one process keep each other out.
 *
 * A `struct flock` of a 64-bit Linux: l_type (16 bits), l_whence (16 bits), padding, l_start (64), l_len (64), l_pid (32),
 * padding; 32 bytes in all.
 */
import { nativeCalls, systemError } from "./native.ts";

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const FLOCK_BYTES = 32;

const EACCES = 13;
const EAGAIN = 11;

/**
 * Locks one byte for reading, as many may at once.
 *
 * @returns false when another description has locked it for writing
 * @throws {Error} an operating system error: EINVAL or ENOLCK on a file system without locks
 */
export function lockByte(fd: number, offset: number): boolean {
  const result = call(fd, F_OFD_SETLK, flock(F_RDLCK, offset));
  if (result === -EAGAIN || result === -EACCES) return false;
  if (result < 0) throw systemError(result, "fcntl");
  return true;
}

/** Lets go of `length` bytes. */
export function unlockBytes(fd: number, offset: number, length: number): void {
  const result = call(fd, F_OFD_SETLK, flock(F_UNLCK, offset, length));
  if (result < 0) throw systemError(result, "fcntl");
}

/**
 * Whether another open file description holds a lock, of either kind, on a byte.
 *
 * @throws {Error} an operating system error: EINVAL or ENOLCK on a file system without locks
 */
export function isByteLocked(fd: number, offset: number): boolean {
  const question = flock(F_WRLCK, offset);
  const result = call(fd, F_OFD_GETLK, question);
  if (result < 0) throw systemError(result, "fcntl");
  return question.readInt16LE(0) !== F_UNLCK;
}

function flock(type: number, start: number, length = 1): Buffer {
  const bytes = Buffer.alloc(FLOCK_BYTES);
  bytes.writeInt16LE(type, 0);
  bytes.writeBigInt64LE(BigInt(start), 8);
  bytes.writeBigInt64LE(BigInt(length), 16);
  return bytes;
}

function call(fd: number, command: number, bytes: Buffer): number {
  const native = nativeCalls();
  if (native === undefined) throw new Error("there are no native calls to lock with");
  return native.fcntl(fd, command, bytes);
}
