/**
 * How large a block device is: stat(2) says 0. The end of the device is where SEEK_END leads; without the native calls sysfs
 * knows it.
 */
import { readFile } from "node:fs/promises";
import { nativeCalls, systemError } from "./native.ts";

const SEEK_END = 2;

/** sysfs counts in these, whatever the device's own sectors are. */
const SYSFS_SECTOR = 512;

/**
 * Size in bytes of an open block device.
 *
 * @param rdev its device number, from fstat
 * @throws {Error} an operating system error
 */
export async function blockDeviceSize(fd: number, rdev: number): Promise<number> {
  const native = nativeCalls();
  if (native !== undefined) {
    const end = native.lseek(fd, 0, SEEK_END);
    if (end < 0) throw systemError(end, "lseek");
    return end;
  }
  const sectors = Number(await readFile(`/sys/dev/block/${deviceNumbers(rdev).join(":")}/size`, "utf8"));
  return sectors * SYSFS_SECTOR;
}

/** Major and minor number of a `dev_t` in the C library's encoding, as stat(2) gives it. */
export function deviceNumbers(dev: number): [major: number, minor: number] {
  const bits = BigInt(dev);
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn);
  const minor = (bits & 0xffn) | ((bits >> 12n) & ~0xffn & 0xffffffffn);
  return [Number(major), Number(minor)];
}
