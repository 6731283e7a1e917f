/**
 * Making a range of a file read as zeroes and giving its space back, by fallocate(2), which runs in libuv's pool. Where that
 * can't be, zeroes are written, in bounded pieces. The length of the file stays.
 */
import { write } from "node:fs";
import { nativeCalls, systemError } from "./native.ts";

const KEEP_SIZE = 0x01;
const PUNCH_HOLE = 0x02;
const ZERO_RANGE = 0x10;

const EINTR = 4;
const EINVAL = 22;
const ENODEV = 19;
const ENOSYS = 38;
const ENOTSUP = 95;

/** What "this file system, this device or this alignment can't" looks like. */
const CANNOT: readonly number[] = [-EINVAL, -ENODEV, -ENOSYS, -ENOTSUP];

const ZEROES = Buffer.alloc(256 * 1024);

/**
 * Makes a range that lies inside the file read as zeroes, as a hole where possible, else as zeroed space, else as written
 * zeroes.
 *
 * @throws {Error} an operating system error
 */
export async function zeroRange(fd: number, offset: number, length: number): Promise<void> {
  if (length === 0 || (await punchHole(fd, offset, length))) return;
  if (await tryAllocate(fd, ZERO_RANGE | KEEP_SIZE, offset, length)) return;
  const end = offset + length;
  let position = offset;
  while (position < end) {
    position += await writeZeroes(fd, position, Math.min(ZEROES.length, end - position));
  }
}

/**
 * Gives the space of a range back; it reads as zeroes then.
 *
 * @returns false when that can't be done here; nothing was changed then
 * @throws {Error} an operating system error
 */
export function punchHole(fd: number, offset: number, length: number): Promise<boolean> {
  return tryAllocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length);
}

async function tryAllocate(fd: number, mode: number, offset: number, length: number): Promise<boolean> {
  const native = nativeCalls();
  if (native === undefined) return false;
  let result: number;
  do {
    result = await native.fallocateAsync(fd, mode, offset, length);
  } while (result === -EINTR);
  if (result === 0) return true;
  if (CANNOT.includes(result)) return false;
  throw systemError(result, "fallocate");
}

function writeZeroes(fd: number, offset: number, length: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, ZEROES, 0, length, offset, (error, written) => {
      if (error) reject(error);
      else resolve(written);
    });
  });
}
