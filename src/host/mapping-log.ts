/**
 * The log of acknowledged mappings (ADR 1) as files on tmpfs: what the kernel has in memory outlives the process, and ends
 * with the machine, as it must.
 *
 * A log is a row of generations, files `KEY-NUMBER` whose key names the image by device, inode and birth time, so that
 * neither another name nor another file under the old name is mistaken. A checkpoint of the image would empty the log but for
 * the records that come while it is under way. So it first has a new generation begun (`rotate`), and when all that was logged
 * before is in the image, the older ones go (`dropOld`), lowest first: at every moment what is left is the newest part of
 * the row, and applying a record twice does no harm. Mostly there are two; a checkpoint that failed leaves more.
 *
 * A process that opens the log of a dead one counts its generations as old, and begins with a new one. A generation comes to
 * be with its first record: an image that is only read leaves nothing.
 *
 * Only who holds the image's lock may open the log for writing. Reading it is for everybody.
 */
import { closeSync, openSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import type { FileIdentity } from "./file-system.ts";
import { findLogDirectory, type LogDirectory, makeLogDirectory, removeLogDirectory } from "./log-directory.ts";
import {
  CREATE_FLAGS,
  GenerationWriter,
  type LoggedMapping,
  openGeneration,
  readGeneration,
} from "./log-generation.ts";

/** How often the directory is made anew before a log is given up. */
const ATTEMPTS = 100;

/**
 * The log of an image.
 *
 * @param options.readOnly only to replay: nothing is written or removed
 * @returns undefined where the system has no place for it
 */
export function openMappingLog(identity: FileIdentity, options: { readOnly: boolean }): FileMappingLog | undefined {
  const directory = findLogDirectory();
  return typeof directory === "string" ? undefined : new FileMappingLog(directory, identity, options.readOnly);
}

/** Fulfils the port that image formats have for it. */
export class FileMappingLog {
  readonly #directory: LogDirectory;
  readonly #identity: FileIdentity;
  readonly #key: string;
  readonly #readOnly: boolean;
  /** Generations that are there and not written any more, rising. */
  #old: number[];
  /** The number of the generation that records go to; it is there once it has a writer. */
  #current: number;
  #fd: number | undefined;
  #writer: GenerationWriter | undefined;

  constructor(directory: LogDirectory, identity: FileIdentity, readOnly: boolean) {
    this.#directory = directory;
    this.#identity = identity;
    this.#key = [identity.dev, identity.ino, identity.birthtimeNs].map((part) => part.toString(16)).join("-");
    this.#readOnly = readOnly;
    this.#old = this.#list();
    this.#current = (this.#old.at(-1) ?? 0) + 1;
  }

  /** All records that an earlier process of this boot left, oldest first. What is not of this boot or this image goes. */
  replay(): readonly LoggedMapping[] {
    const all: LoggedMapping[] = [];
    for (const generation of [...this.#old]) {
      const records = this.#read(generation);
      if (records === undefined) this.#drop(generation);
      else for (const record of records) all.push(record);
    }
    return all;
  }

  /**
   * Records a mapping; the kernel has it on return.
   *
   * @param entry 8 or 16 bytes, the same for all of an image
   * @throws {StreamdiskError} `no-space` when the log's file system or the log is full: the record is not in the log then
   */
  append(cluster: number, entry: Uint8Array): void {
    try {
      this.#writer ??= this.#begin(entry.length);
      if (this.#writer.append(cluster, entry)) return;
    } catch (error) {
      throw wrapSystemError(error, this.#path(this.#current), "write to the log");
    }
    const path = this.#path(this.#current);
    throw new StreamdiskError("no-space", `The log '${path}' is full: no checkpoint has emptied it`, { node: path });
  }

  /** What comes from now on goes to a new generation. */
  rotate(): void {
    if (this.#fd !== undefined) this.#endCurrent(this.#fd);
  }

  /** All that was recorded before the last `rotate` is in the image. */
  dropOld(): void {
    for (const generation of [...this.#old]) this.#drop(generation);
  }

  /** The image needs no log any more. */
  remove(): void {
    if (this.#fd !== undefined) this.#endCurrent(this.#fd);
    this.dropOld();
    if (!this.#readOnly) removeLogDirectory(this.#directory);
  }

  #begin(entryBytes: number): GenerationWriter {
    if (this.#readOnly) throw new Error("it was opened read-only");
    this.#fd ??= this.#create(this.#path(this.#current));
    return new GenerationWriter(this.#fd, this.#identity, this.#directory.bootId, entryBytes);
  }

  /** Another process may remove the directory, empty as it is, between the two steps: then again. */
  #create(path: string): number {
    for (let attempt = 1; ; attempt++) {
      makeLogDirectory(this.#directory);
      try {
        return openSync(path, CREATE_FLAGS, 0o600);
      } catch (error) {
        const gone = this.#directory.own && (error as NodeJS.ErrnoException).code === "ENOENT";
        if (!gone || attempt === ATTEMPTS) throw error;
      }
    }
  }

  #endCurrent(fd: number): void {
    closeSync(fd);
    this.#fd = undefined;
    this.#writer = undefined;
    this.#old.push(this.#current);
    this.#current++;
  }

  #read(generation: number): LoggedMapping[] | undefined {
    let fd: number;
    try {
      fd = openGeneration(this.#path(generation));
    } catch (error) {
      // The process that it belongs to may just have dropped it.
      if (this.#readOnly && (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      if ((error as NodeJS.ErrnoException).code === "ELOOP") return undefined;
      throw wrapSystemError(error, this.#path(generation), "read the log");
    }
    try {
      return readGeneration(fd, this.#identity, this.#directory.bootId);
    } finally {
      closeSync(fd);
    }
  }

  #drop(generation: number): void {
    if (!this.#readOnly) rmSync(this.#path(generation), { force: true });
    this.#old = this.#old.filter((other) => other !== generation);
  }

  #path(generation: number): string {
    return join(this.#directory.path, `${this.#key}-${generation}`);
  }

  #list(): number[] {
    let names: string[];
    try {
      names = readdirSync(this.#directory.path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw wrapSystemError(error, this.#directory.path, "read the directory");
    }
    const prefix = `${this.#key}-`;
    return names
      .filter((name) => name.startsWith(prefix) && /^[1-9]\d{0,14}$/.test(name.slice(prefix.length)))
      .map((name) => Number(name.slice(prefix.length)))
      .sort((a, b) => a - b);
  }
}
