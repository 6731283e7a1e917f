/**
 * The locks by which QEMU's programs keep out of each other's way, so that they keep out of ours and we out of theirs.
 *
 * A user of an image says two things with read locks on single bytes of the file: byte 100 + n "I use permission n", byte
 * 200 + n "I don't share permission n". Permissions are consistent read (0), write (1), write unchanged (2) and resize (3).
 * Whoever opens takes its own locks first and then looks for those of others that contradict: of the two that come at the same
 * moment at least one sees the other. Locks belong to the descriptor that does the I/O and fall with it, by kill -9 too.
 *
 * What QEMU 7.2 takes, seen in /proc/PID/fdinfo, is what is taken here: a guest's disk, qemu-io or qemu-nbd 100, 101, 103,
 * 201, 203; a backing file, a read-only disk, `qemu-img info` 100, 201, 203; `qemu-img info -U` 100.
 *
 * Without the native calls no lock can be taken, but the kernel's table of locks says what others have taken, and a claimed
 * name keeps writers of ours apart. On a file system without locks nobody can know anything. Both are a warning and not an
 * error, as they are to QEMU.
 */
import { fstat } from "node:fs";
import { promisify } from "node:util";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import {
  claimName,
  type HeldLock,
  heldLocks,
  isByteLocked,
  type LockHolder,
  lockByte,
  lockHolders,
  lockTableKey,
  type NameClaim,
  nativeCalls,
  nativeProblem,
  unlockBytes,
} from "../host/index.ts";

/**
 * `exclusive`: the one writer. `shared`: readers who need the file to stay as it is, for a backing file too. `none`: takes
 * nothing and always succeeds, but says who writes.
 */
export type LockMode = "exclusive" | "shared" | "none";

const USED_BASE = 100;
const UNSHARED_BASE = 200;
const LAST = 203;

const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

interface Permissions {
  readonly used: readonly number[];
  readonly unshared: readonly number[];
}

const PERMISSIONS: Readonly<Record<Exclude<LockMode, "none">, Permissions>> = {
  exclusive: { used: [CONSISTENT_READ, WRITE, RESIZE], unshared: [WRITE, RESIZE] },
  shared: { used: [CONSISTENT_READ], unshared: [WRITE, RESIZE] },
};

const fstatBig = promisify(
  (fd: number, callback: (error: NodeJS.ErrnoException | null, stat: { dev: bigint; ino: bigint }) => void) =>
    fstat(fd, { bigint: true }, callback),
);

/** What was locked. The bytes of the file fall with its descriptor, after which this is to be released. */
export interface ImageLock {
  /** A sentence for the user: the lock protects less than it should, or (mode `none`) somebody writes. */
  readonly warning: string | undefined;
  release(): Promise<void>;
}

/**
 * Locks an open image.
 *
 * @param name what the user calls it, for messages
 * @throws {StreamdiskError} `in-use` when somebody else's use contradicts; nothing stays locked then
 */
export async function lockImage(fd: number, name: string, mode: LockMode): Promise<ImageLock> {
  try {
    if (mode === "none") return warned(await warnOfWriter(fd, name));
    const { used, unshared } = PERMISSIONS[mode];
    const contrary = [...unshared.map((bit) => USED_BASE + bit), ...used.map((bit) => UNSHARED_BASE + bit)];
    if (nativeCalls() === undefined) return await lockWithoutCalls(fd, name, mode, contrary);

    const own = [...used.map((bit) => USED_BASE + bit), ...unshared.map((bit) => UNSHARED_BASE + bit)];
    // A byte that can't be locked for reading is locked for writing: QEMU does so only for the moment of a test.
    const conflict = own.find((byte) => !lockByte(fd, byte)) ?? contrary.find((byte) => isByteLocked(fd, byte));
    if (conflict === undefined) return warned(undefined);
    unlockBytes(fd, USED_BASE, LAST - USED_BASE + 1);
    throw await inUse(fd, name, conflict);
  } catch (error) {
    if (hasNoLocks(error)) {
      return warned(`The file system of '${name}' has no locks: nothing keeps other programs from using it meanwhile.`);
    }
    throw wrapSystemError(error, name, "lock", { operation: "open" });
  }
}

async function lockWithoutCalls(
  fd: number,
  name: string,
  mode: LockMode,
  contrary: readonly number[],
): Promise<ImageLock> {
  const claim = mode === "exclusive" ? await claimWriter(fd, name) : undefined;
  const locks = await locksInTable(fd);
  const conflict = locks && firstLocked(locks, contrary);
  if (conflict !== undefined) {
    await claim?.release();
    throw await inUse(fd, name, conflict);
  }
  const seen = locks === undefined ? "there is no /proc/locks to see who uses it" : "nobody used it when it was opened";
  const warning = `'${name}' is not locked, so QEMU and other programs are not kept out (${nativeProblem()}); ${seen}.`;
  return { warning, release: async () => claim?.release() };
}

async function claimWriter(fd: number, name: string): Promise<NameClaim | undefined> {
  let claim: NameClaim | undefined;
  try {
    claim = await claimName(`writer of ${await tableKey(fd)}`);
  } catch {
    return undefined; // No Linux: the warning says it.
  }
  if (claim !== undefined) return claim;
  const message = `'${name}' is being written by another process of streamdisk: end that first, or wait for it`;
  throw new StreamdiskError("in-use", message, { node: name, operation: "open" });
}

function warned(warning: string | undefined): ImageLock {
  return { warning, release: async () => {} };
}

async function warnOfWriter(fd: number, name: string): Promise<string | undefined> {
  const bytes = [USED_BASE + WRITE, USED_BASE + RESIZE];
  const conflict =
    nativeCalls() === undefined
      ? firstLocked((await locksInTable(fd)) ?? [], bytes)
      : bytes.find((byte) => isByteLocked(fd, byte));
  if (conflict === undefined) return undefined;
  return `'${name}' is being written by ${await holderText(fd, conflict)}: what is read from it may be out of date.`;
}

async function locksInTable(fd: number): Promise<HeldLock[] | undefined> {
  return heldLocks(await tableKey(fd));
}

async function tableKey(fd: number): Promise<string> {
  return lockTableKey(fd, await fstatBig(fd));
}

function firstLocked(locks: readonly HeldLock[], bytes: readonly number[]): number | undefined {
  return bytes.find((byte) => locks.some((lock) => lock.first <= byte && byte <= lock.last));
}

async function inUse(fd: number, name: string, byte: number): Promise<StreamdiskError> {
  const what = byte === USED_BASE + WRITE || byte === USED_BASE + RESIZE ? "is being written" : "is in use";
  const message = `'${name}' ${what} by ${await holderText(fd, byte)}: end that use first, or wait for it`;
  return new StreamdiskError("in-use", message, { node: name, operation: "open" });
}

async function holderText(fd: number, byte: number): Promise<string> {
  const holders = await lockHolders(await tableKey(fd), byte, byte, fd);
  if (holders.length === 0) return "another program (which one, this user may not see)";
  return holders.map(describeHolder).join(" and ");
}

function describeHolder(holder: LockHolder): string {
  return holder.pid === process.pid ? `this process (pid ${holder.pid})` : `${holder.name} (pid ${holder.pid})`;
}

/** QEMU, too, goes on without locks where the file system has none. */
function hasNoLocks(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "EINVAL" || code === "ENOLCK" || code === "ENOTSUP" || code === "ENOSYS";
}
