/**
 * A regular file or block device as a node.
 *
 * Every request is one promise over node:fs's callbacks on the descriptor, in libuv's pool; any number may be under way.
 * Two lengths are kept: `length`, which grows when a write past the end has been done, and the reach, which grows when one
 * is begun. A truncation that lengthens the file goes to the reach at least and is synchronous, or it could cut off what
 * a write under way is just adding.
 *
 * close() waits for the requests under way: the number of a descriptor closed under them may be another file's by the time
 * they run.
 */
import { fdatasync, ftruncate, ftruncateSync, read } from "node:fs";
import { promisify } from "node:util";
import type { BlockNode, Extent } from "../block/index.ts";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import {
  blockDeviceSize,
  canReadNow,
  type FileIdentity,
  fileRuns,
  fileSystemFacts,
  nativeCalls,
  punchHole,
  readNow,
  zeroRange,
} from "../host/index.ts";
import { type FileWatch, watchDeletion } from "./file-watch.ts";
import { Flusher } from "./flusher.ts";
import { type ImageLock, type LockMode, lockImage } from "./image-lock.ts";
import { closeFile, fileLength, fileSpace, flushDirectoryOf, openPlainFile, type PlainFile } from "./plain-file.ts";
import { WriteQueue } from "./write-queue.ts";

export interface OpenFileOptions {
  readonly readOnly: boolean;
  /** @default "shared" with `readOnly`, else "exclusive" */
  readonly lock?: LockMode;
  /** Makes the file, which must not be there yet. @default false */
  readonly create?: boolean;
}

/** How many extents one call gives at most: each costs a system call or two. */
const EXTENTS_A_CALL = 1024;

/** Offsets are numbers: beyond it they are not exact any more, rounded up to whole sectors. */
const LONGEST_FILE = 2 ** 53 - 512;

/** The errno of a file system that can't tell what is in memory. */
const ENOTSUP = 95;

/** Linux moves no more in one call (read(2), "Notes"). */
const TRANSFER_A_CALL = 0x7ffff000;

/**
 * Opens a regular file or a block device and locks it, against QEMU and ourselves.
 *
 * @throws {StreamdiskError} `not-found`, `permission`, `exists` (with `create`), `in-use`, `unsupported` for one of 8 PiB or more, or
 * `invalid-argument` for a directory, a named pipe and the like
 */
export async function openFile(path: string, options: OpenFileOptions): Promise<FileNode> {
  const plain = await openPlainFile(path, options.readOnly, options.create ?? false);
  let lock: ImageLock | undefined;
  try {
    lock = await lockImage(plain.fd, path, options.lock ?? (options.readOnly ? "shared" : "exclusive"));
    if (options.create) await flushDirectoryOf(path);
    // Asked after locking: until then somebody else may have been at work on it.
    const length = await currentLength(plain);
    refuseTooLong(path, length);
    const { remote, tmpfs, punches: canPunch } = await fileSystemFacts(path);
    const punches = canPunch && !options.readOnly && plain.rdev === undefined && nativeCalls() !== undefined;
    return new FileNode(path, plain, { length, readOnly: options.readOnly, remote, tmpfs, punches, lock });
  } catch (error) {
    await closeFile(plain.fd);
    await lock?.release();
    throw wrapSystemError(error, path, "open", { operation: "open" });
  }
}

const fdatasyncAsync = promisify(fdatasync);
const ftruncateAsync = promisify(ftruncate);

function refuseTooLong(path: string, length: number): void {
  if (length <= LONGEST_FILE) return;
  const message = `'${path}' has ${length} bytes, and no more than ${LONGEST_FILE} can be addressed`;
  throw new StreamdiskError("unsupported", message, { node: path, operation: "open", length });
}

function currentLength(plain: PlainFile): Promise<number> {
  return plain.rdev === undefined ? fileLength(plain.fd) : blockDeviceSize(plain.fd, plain.rdev);
}

interface FileFacts {
  readonly length: number;
  readonly readOnly: boolean;
  readonly remote: string | undefined;
  readonly tmpfs: boolean;
  readonly punches: boolean;
  readonly lock: ImageLock;
}

/** Made by {@link openFile}. */
export class FileNode implements BlockNode {
  readonly path: string;
  readonly readOnly: boolean;
  /** Whether this is a regular file; a block device has the size that it has. */
  readonly grows: boolean;
  readonly backing = undefined;
  /** What the lock does not protect from; a sentence for the user. */
  readonly lockWarning: string | undefined;
  /** Which file it is, whatever it is called. */
  readonly identity: FileIdentity;
  /** The kind of file system, where that is one that may hang ("NFS"). */
  readonly remote: string | undefined;

  readonly #fd: number;
  readonly #lock: ImageLock;
  readonly #tmpfs: boolean;
  readonly #punches: boolean;
  #readsNow: boolean;
  #length: number;
  #reach: number;
  #underWay = 0;
  #whenIdle: (() => void) | undefined;
  #closing: Promise<void> | undefined;
  #watch: FileWatch | undefined;
  readonly #flusher: Flusher;
  readonly #writes: WriteQueue;

  constructor(path: string, plain: PlainFile, facts: FileFacts) {
    this.path = path;
    this.readOnly = facts.readOnly;
    this.grows = plain.rdev === undefined;
    this.lockWarning = facts.lock.warning;
    this.#lock = facts.lock;
    this.identity = plain.identity;
    this.remote = facts.remote;
    this.#tmpfs = facts.tmpfs;
    this.#punches = facts.punches;
    this.#readsNow = facts.remote === undefined && canReadNow();
    this.#fd = plain.fd;
    this.#writes = new WriteQueue(plain.fd);
    this.#length = facts.length;
    this.#reach = facts.length;
    // What an earlier process left may not be durable.
    this.#flusher = new Flusher(() => this.#sync(), !facts.readOnly);
  }

  get name(): string {
    return this.path;
  }

  get length(): number {
    return this.#length;
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const length = target.length;
      this.#begin("read", offset, length);
      let done = 0;
      const step = () => read(this.#fd, target, done, Math.min(length - done, TRANSFER_A_CALL), offset + done, next);
      const next = (error: NodeJS.ErrnoException | null, count: number): void => {
        done += count;
        if (error === null && count > 0 && done < length) {
          step();
          return;
        }
        this.#end();
        if (error === null && done === length) resolve();
        else reject(error ? this.#failure("read", offset, length, error) : this.#cutShort(offset, length, done));
      };
      step();
    });
  }

  readNow(offset: number, target: Uint8Array): boolean {
    const { length } = target;
    if (!this.#readsNow || this.#closing !== undefined || offset < 0 || offset + length > this.#length) return false;
    const count = readNow(this.#fd, target, offset, this.#tmpfs);
    if (count === -ENOTSUP) this.#readsNow = false;
    return count === length;
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const length = data.length;
      this.#beginChange("write", offset, length, this.grows);
      this.#writes.add(offset, data, (error, done) => {
        // As far as it came the file is that long, also when the rest failed.
        if (done > 0 && offset + done > this.#length) this.#length = offset + done;
        this.#endChange();
        if (error === null) resolve();
        else reject(this.#failure("write", offset, length, error));
      });
    });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#beginChange("write zeroes", offset, length, this.grows);
    try {
      const inside = Math.min(length, Math.max(this.#length - offset, 0));
      await zeroRange(this.#fd, offset, inside);
      if (length > 0 && offset + length > this.#length) this.#lengthen(offset + length);
    } catch (error) {
      throw this.#failure("write zeroes", offset, length, error);
    } finally {
      this.#endChange();
    }
  }

  canZeroFast(): boolean {
    return this.#punches;
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#beginChange("discard", offset, length, false);
    try {
      if (length > 0) await punchHole(this.#fd, offset, length);
    } catch (error) {
      throw this.#failure("discard", offset, length, error);
    } finally {
      this.#endChange();
    }
  }

  flush(): Promise<void> {
    if (this.#closing !== undefined) return Promise.reject(this.#shutDown("flush"));
    return this.#flusher.flush();
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#begin("map", offset, length);
    try {
      const mayHang = this.remote !== undefined;
      const runs = await fileRuns(this.#fd, offset, offset + length, { limit: EXTENTS_A_CALL, mayHang });
      // Past its end a file that was cut short has a hole, as the kernel sees it; its bytes were something else.
      if (this.readOnly && this.grows && runs.at(-1)?.hole) {
        const end = await fileLength(this.#fd);
        if (end < offset + length) throw this.#cutShort(offset, length, Math.max(end - offset, 0));
      }
      return runs.map((run) => ({
        offset: run.offset,
        length: run.length,
        kind: run.hole ? "zero" : "data",
        depth: 0,
        hostOffset: run.offset,
      }));
    } catch (error) {
      throw this.#failure("map", offset, length, error);
    } finally {
      this.#end();
    }
  }

  async resize(length: number): Promise<void> {
    if (!this.grows && length !== this.#length) {
      const message = `'${this.path}' is a block device of ${this.#length} bytes: it can't be made ${length} bytes long`;
      throw new StreamdiskError("unsupported", message, { node: this.path, operation: "resize", length });
    }
    this.#beginChange("resize to", 0, length, this.grows);
    try {
      if (length > this.#length) {
        this.#lengthen(length);
      } else if (length < this.#length) {
        await ftruncateAsync(this.#fd, length);
        this.#length = length;
        this.#reach = length;
      }
    } catch (error) {
      throw this.#failure("resize to", 0, length, error);
    } finally {
      this.#endChange();
    }
  }

  /** The space that the file takes up, in bytes: qemu-img's "actual-size". */
  async allocatedBytes(): Promise<number> {
    this.#begin("inspect", 0, 0);
    try {
      return await fileSpace(this.#fd);
    } catch (error) {
      throw this.#failure("inspect", 0, 0, error);
    } finally {
      this.#end();
    }
  }

  /** How many bytes this user may still add to the file system that the file lies in. */
  async freeSpace(): Promise<number> {
    try {
      return (await fileSystemFacts(this.path)).freeBytes;
    } catch (error) {
      throw this.#failure("inspect", 0, 0, error);
    }
  }

  /**
   * Has `listener` called when the file is deleted or another is renamed over it, while it is open: once, and never at once. A
   * block device and a file on another machine are not watched, nor is a file where the kernel can't.
   */
  onDeleted(listener: () => void): void {
    if (!this.grows || this.remote !== undefined || this.#closing !== undefined) return;
    this.#watch?.close();
    this.#watch = watchDeletion(this.#fd, listener);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#watch?.close();
    if (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    }
    try {
      await this.#flusher.flush();
    } finally {
      await closeFile(this.#fd);
      await this.#lock.release();
    }
  }

  async #sync(): Promise<void> {
    try {
      await fdatasyncAsync(this.#fd);
    } catch (error) {
      throw wrapSystemError(error, this.path, "flush", { operation: "flush" });
    }
  }

  #lengthen(length: number): void {
    const reach = Math.max(length, this.#reach);
    ftruncateSync(this.#fd, reach);
    this.#length = reach;
    this.#reach = reach;
  }

  #begin(operation: string, offset: number, length: number, mayGrow = false): void {
    if (this.#closing !== undefined) throw this.#shutDown(operation);
    const end = offset + length;
    const valid = offset >= 0 && length >= 0 && Number.isSafeInteger(offset) && Number.isSafeInteger(end);
    if (!valid || (end > this.#length && !mayGrow)) {
      const message = `Could not ${operation} ${length} bytes at ${offset} of '${this.path}': it has ${this.#length} bytes`;
      throw new StreamdiskError("invalid-argument", message, { node: this.path, operation, offset, length });
    }
    this.#underWay++;
  }

  #beginChange(operation: string, offset: number, length: number, mayGrow: boolean): void {
    if (this.readOnly) {
      const message = `Could not ${operation} ${length} bytes at ${offset} of '${this.path}': it was opened read-only`;
      throw new StreamdiskError("permission", message, { node: this.path, operation, offset, length });
    }
    this.#begin(operation, offset, length, mayGrow);
    if (length > 0) this.#reach = Math.max(this.#reach, offset + length);
  }

  #end(): void {
    if (--this.#underWay > 0) return;
    this.#reach = this.#length;
    this.#whenIdle?.();
  }

  #endChange(): void {
    this.#flusher.noteChange();
    this.#end();
  }

  #failure(operation: string, offset: number, length: number, error: unknown): Error {
    return wrapSystemError(error, this.path, `${operation} ${length} bytes at ${offset} of`, {
      operation,
      offset,
      length,
    });
  }

  #cutShort(offset: number, length: number, done: number): StreamdiskError {
    const message = `'${this.path}' ended at ${offset + done} when ${length} bytes at ${offset} were wanted: it was cut short`;
    return new StreamdiskError("changed", message, { node: this.path, operation: "read", offset, length });
  }

  #shutDown(operation: string): StreamdiskError {
    return new StreamdiskError("shutdown", `'${this.path}' is closed`, { node: this.path, operation });
  }
}
