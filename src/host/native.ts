/**
 * The few calls of the C library that Node lacks, through koffi, which is an optional dependency: whoever uses one has
 * a way to go on without it.
 *
 * The library is loaded once a thread, at the first use, and only where the numbers used here are known to hold: Linux on
 * a little-endian 64-bit machine, whose `off_t` has 64 bits and whose `struct flock` has 32 bytes. `STREAMDISK_NATIVE=off`
 * in the environment turns it off.
 *
 * Offsets cross as numbers and are exact up to 2^53. A call that fails returns its errno, negated: errno itself would be
 * overwritten by the next call before a caller that awaits could look at it.
 */
import { createRequire } from "node:module";
import { getSystemErrorMessage, getSystemErrorName } from "node:util";

export interface NativeCalls {
  /** lseek(2); moves the descriptor's position, which nothing here uses. */
  lseek(fd: number, offset: number, whence: number): number;
  /** lseek(2) in a thread of libuv's pool, for file systems that may hang. */
  lseekAsync(fd: number, offset: number, whence: number): Promise<number>;
  /** fallocate(2) in a thread of libuv's pool: a large range may take seconds. */
  fallocateAsync(fd: number, mode: number, offset: number, length: number): Promise<number>;
  /** fcntl(2) with a `struct flock`, which the kernel may fill in. */
  fcntl(fd: number, command: number, flock: Uint8Array): number;
  /** socket(2). */
  socket(domain: number, type: number, protocol: number): number;
  /** sendto(2) with a `struct sockaddr`. */
  sendto(fd: number, bytes: Uint8Array, flags: number, address: Uint8Array): number;
  /** preadv2(2) into one `struct iovec`; undefined where the C library is older than the call. */
  readonly preadv2: ((fd: number, iovec: Uint8Array, offset: number, flags: number) => number) | undefined;
  /** Where in memory a buffer lies, which it does for as long as it lives. */
  addressOf(buffer: ArrayBuffer): number;
}

const KNOWN_MACHINES: readonly string[] = ["x64", "arm64", "riscv64", "loong64"];

interface Loaded {
  readonly calls: NativeCalls | undefined;
  readonly problem: string;
}

let loaded: Loaded | undefined;

/** The native calls; undefined where there are none, see {@link nativeProblem}. */
export function nativeCalls(): NativeCalls | undefined {
  loaded ??= load();
  return loaded.calls;
}

/** Why there are no native calls, as a clause; empty when there are. */
export function nativeProblem(): string {
  loaded ??= load();
  return loaded.problem;
}

/** The error that node:fs would have thrown for a negated errno. */
export function systemError(result: number, call: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(result);
  const error: NodeJS.ErrnoException = new Error(`${code}: ${getSystemErrorMessage(result)}, ${call}`);
  error.code = code;
  error.errno = result;
  error.syscall = call;
  return error;
}

function load(): Loaded {
  if (process.env.STREAMDISK_NATIVE === "off") return absent("STREAMDISK_NATIVE=off turns them off");
  if (process.platform !== "linux") return absent(`they are for Linux, and this is ${process.platform}`);
  if (!KNOWN_MACHINES.includes(process.arch)) return absent(`they are not known for ${process.arch}`);
  try {
    return { calls: bind(), problem: "" };
  } catch (error) {
    const why = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    return absent(`the package koffi could not be loaded: ${why}`);
  }
}

function absent(problem: string): Loaded {
  return { calls: undefined, problem };
}

type Callback = (error: Error | null, result: number | bigint) => void;

function bind(): NativeCalls {
  const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
  // The C library that Node itself runs on, whichever it is.
  const program = koffi.load(null);
  const lseek = program.func("int64_t lseek(int fd, int64_t offset, int whence)");
  const fallocate = program.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
  const fcntl = program.func("int fcntl(int fd, int command, void *flock)");
  const socket = program.func("int socket(int domain, int type, int protocol)");
  const sendto = program.func(
    "int64_t sendto(int fd, void *bytes, size_t length, int flags, void *address, uint32_t addressLength)",
  );
  const preadv2 = optional(() =>
    program.func("int64_t preadv2(int fd, void *iovec, int count, int64_t offset, int flags)"),
  );

  const outcome = (result: number | bigint): number => (result === -1 ? -koffi.errno() : Number(result));
  const later = (call: (callback: Callback) => void): Promise<number> =>
    new Promise((resolve, reject) => {
      call((error, result) => {
        if (error) reject(error);
        else resolve(outcome(result));
      });
    });

  return {
    lseek: (fd, offset, whence) => outcome(lseek(fd, offset, whence)),
    lseekAsync: (fd, offset, whence) => later((callback) => lseek.async(fd, offset, whence, callback)),
    fallocateAsync: (fd, mode, offset, length) =>
      later((callback) => fallocate.async(fd, mode, offset, length, callback)),
    fcntl: (fd, command, flock) => outcome(fcntl(fd, command, flock)),
    socket: (domain, type, protocol) => outcome(socket(domain, type, protocol)),
    sendto: (fd, bytes, flags, address) => outcome(sendto(fd, bytes, bytes.length, flags, address, address.length)),
    preadv2: preadv2 && ((fd, iovec, offset, flags) => outcome(preadv2(fd, iovec, 1, offset, flags))),
    addressOf: (buffer) => Number(koffi.address(buffer)),
  };
}

function optional<T>(find: () => T): T | undefined {
  try {
    return find();
  } catch {
    return undefined;
  }
}
