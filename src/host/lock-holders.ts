/**
 * Who holds locks on a file, by what /proc tells. Two tables: /proc/locks has every lock of this machine, without saying who
 * holds one that belongs to an open file description; /proc/PID/fdinfo/FD has the locks of one descriptor, for processes that
 * this user may look into.
 *
 * Both name a file by the device of its file system and its inode. That device is not always what stat(2) says (btrfs), so
 * it is looked up through the mount that the descriptor belongs to.
 */
import { readdir, readFile } from "node:fs/promises";
import { deviceNumbers } from "./block-device.ts";

/** A lock on bytes `first` to `last`, both included. */
export interface HeldLock {
  readonly first: number;
  readonly last: number;
}

/** A process that holds a lock. */
export interface LockHolder {
  readonly pid: number;
  /** The command's name, of at most 15 characters, as the kernel has it. */
  readonly name: string;
}

/** A lock of either table: "1: OFDLCK  ADVISORY  READ -1 fe:00:2147092 100 101" ("EOF" for an open end). */
const LOCK = /:\s+(?:OFDLCK|POSIX)\s+\S+\s+(?:READ|WRITE)\s+-?\d+\s+([0-9a-f]+:[0-9a-f]+:\d+)\s+(\d+)\s+(\d+|EOF)\s*$/;

/**
 * The name of an open file in the kernel's lock tables: major and minor number in hexadecimal, and inode.
 *
 * @param stat what fstat says of it
 */
export async function lockTableKey(fd: number, stat: { dev: bigint; ino: bigint }): Promise<string> {
  const [major, minor] = (await mountDevice(fd)) ?? deviceNumbers(Number(stat.dev));
  return `${hex(major)}:${hex(minor)}:${stat.ino}`;
}

/** All locks on a file, whoever holds them; undefined without a /proc/locks. */
export async function heldLocks(key: string): Promise<HeldLock[] | undefined> {
  const table = await readText("/proc/locks");
  return table === undefined ? undefined : parseLocks(table, key);
}

/**
 * The processes that hold a lock on a file that touches the bytes `first` to `last`, as far as this user may see them; not
 * `ownFd` of this process.
 */
export async function lockHolders(key: string, first: number, last: number, ownFd: number): Promise<LockHolder[]> {
  const holders: LockHolder[] = [];
  for (const pid of await list("/proc")) {
    if (/^\d+$/.test(pid) && (await holdsLock(pid, key, first, last, ownFd))) {
      const name = (await readText(`/proc/${pid}/comm`))?.trimEnd();
      holders.push({ pid: Number(pid), name: name || "a process" });
    }
  }
  return holders;
}

/** The locks on one file in the text of /proc/locks or of an fdinfo. */
export function parseLocks(text: string, key: string): HeldLock[] {
  const locks: HeldLock[] = [];
  for (const line of text.split("\n")) {
    const found = LOCK.exec(line);
    if (found?.[1] !== key) continue;
    locks.push({ first: Number(found[2]), last: found[3] === "EOF" ? Number.MAX_SAFE_INTEGER : Number(found[3]) });
  }
  return locks;
}

async function holdsLock(pid: string, key: string, first: number, last: number, ownFd: number): Promise<boolean> {
  for (const fd of await list(`/proc/${pid}/fdinfo`)) {
    if (Number(pid) === process.pid && Number(fd) === ownFd) continue;
    const locks = parseLocks((await readText(`/proc/${pid}/fdinfo/${fd}`)) ?? "", key);
    if (locks.some((lock) => lock.first <= last && first <= lock.last)) return true;
  }
  return false;
}

/** The device of the file system that a descriptor's mount shows (proc(5), /proc/PID/mountinfo). */
async function mountDevice(fd: number): Promise<[number, number] | undefined> {
  const mount = /^mnt_id:\s*(\d+)$/m.exec((await readText(`/proc/self/fdinfo/${fd}`)) ?? "")?.[1];
  if (mount === undefined) return undefined;
  for (const line of ((await readText("/proc/self/mountinfo")) ?? "").split("\n")) {
    const found = /^(\d+) \d+ (\d+):(\d+) /.exec(line);
    if (found?.[1] === mount) return [Number(found[2]), Number(found[3])];
  }
  return undefined;
}

function hex(number: number): string {
  return number.toString(16).padStart(2, "0");
}

/** What cannot be read is nobody's: processes end while one looks, and others' are closed to us. */
async function list(directory: string): Promise<string[]> {
  return readdir(directory).catch(() => []);
}

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}
