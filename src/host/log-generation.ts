/**
 * One generation of a mapping log: a file with a header and records of one size, little-endian.
 *
 *     header   0 "SDMAPLOG"   8 version (32 bits)   12 bytes of an entry (32)   16 boot id (128)
 *             32 device (64) 40 inode (64)          48 birth time in ns (64)   56 zero (32)   60 CRC-32 of bytes 0 to 59 (32)
 *     record   0 cluster (64) 8 entry (8 or 16 bytes)     CRC-32 of what precedes (32)
 *
 * A record's CRC starts from the header's plus the record's index, so that no bytes but its own are taken for it. Reading
 * ends at the first record that doesn't fit its CRC: the process died while it wrote it, and so never acknowledged it.
 */
import { constants, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { crc32 } from "node:zlib";
import type { FileIdentity } from "./file-system.ts";

/** A guest cluster and its L2 entry, as the image's format writes it. */
export interface LoggedMapping {
  readonly cluster: number;
  readonly entry: Uint8Array;
}

const MAGIC = "SDMAPLOG";
const VERSION = 1;
const HEADER_BYTES = 64;
const HEADER_CRC = 60;
const CLUSTER_BYTES = 8;
const CRC_BYTES = 4;

/** More than any log that checkpoints keep short; so much is read into memory at most. */
export const GENERATION_BYTES = 8 * 1024 * 1024;

const READ_BYTES = 1024 * 1024;

/** Writes records to a new generation. */
export class GenerationWriter {
  readonly #fd: number;
  readonly #entryBytes: number;
  readonly #seed: number;
  readonly #record: Buffer;
  #count = 0;

  /** @param fd an empty file; the caller closes it */
  constructor(fd: number, identity: FileIdentity, bootId: string, entryBytes: number) {
    const header = encodeHeader(identity, bootId, entryBytes);
    writeAll(fd, header, 0);
    this.#fd = fd;
    this.#entryBytes = entryBytes;
    this.#seed = header.readUInt32LE(HEADER_CRC);
    this.#record = Buffer.alloc(CLUSTER_BYTES + entryBytes + CRC_BYTES);
  }

  /**
   * Appends a record. One that fails to be written is overwritten by the next.
   *
   * @returns false when the generation is full
   */
  append(cluster: number, entry: Uint8Array): boolean {
    const record = this.#record;
    const position = HEADER_BYTES + this.#count * record.length;
    if (position + record.length > GENERATION_BYTES) return false;
    if (entry.length !== this.#entryBytes) {
      throw new RangeError(`A log of entries of ${this.#entryBytes} bytes was given one of ${entry.length}`);
    }
    record.writeBigUInt64LE(BigInt(cluster), 0);
    record.set(entry, CLUSTER_BYTES);
    const body = record.length - CRC_BYTES;
    record.writeUInt32LE(recordCrc(record.subarray(0, body), this.#seed, this.#count), body);
    writeAll(this.#fd, record, position);
    this.#count++;
    return true;
  }
}

/** Flags to open a generation with: what is no plain file of our making is not followed and not waited for. */
export const CREATE_FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const READ_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Opens a generation for {@link readGeneration}. */
export function openGeneration(path: string): number {
  return openSync(path, READ_FLAGS);
}

/** The whole records of a generation, oldest first; undefined when it is no log of this image and this boot. */
export function readGeneration(fd: number, identity: FileIdentity, bootId: string): LoggedMapping[] | undefined {
  const stat = fstatSync(fd);
  const header = Buffer.alloc(HEADER_BYTES);
  if (!stat.isFile() || stat.uid !== process.getuid?.() || readAll(fd, header, 0) < HEADER_BYTES) return undefined;
  const entryBytes = header.readUInt32LE(12);
  if (entryBytes !== 8 && entryBytes !== 16) return undefined;
  if (!header.equals(encodeHeader(identity, bootId, entryBytes))) return undefined;

  const seed = header.readUInt32LE(HEADER_CRC);
  const recordBytes = CLUSTER_BYTES + entryBytes + CRC_BYTES;
  const body = recordBytes - CRC_BYTES;
  const end = Math.min(stat.size, GENERATION_BYTES);
  const records: LoggedMapping[] = [];
  let position = HEADER_BYTES;
  while (position + recordBytes <= end) {
    const most = Math.min(READ_BYTES, end - position);
    const chunk = Buffer.alloc(most - (most % recordBytes));
    if (readAll(fd, chunk, position) < chunk.length) return records;
    for (let at = 0; at < chunk.length; at += recordBytes) {
      const crc = recordCrc(chunk.subarray(at, at + body), seed, records.length);
      const cluster = Number(chunk.readBigUInt64LE(at));
      if (crc !== chunk.readUInt32LE(at + body) || !Number.isSafeInteger(cluster)) return records;
      records.push({ cluster, entry: chunk.subarray(at + CLUSTER_BYTES, at + body) });
    }
    position += chunk.length;
  }
  return records;
}

function encodeHeader(identity: FileIdentity, bootId: string, entryBytes: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(MAGIC, 0, "latin1");
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(entryBytes, 12);
  header.write(bootId, 16, "hex");
  header.writeBigUInt64LE(BigInt.asUintN(64, identity.dev), 32);
  header.writeBigUInt64LE(BigInt.asUintN(64, identity.ino), 40);
  header.writeBigUInt64LE(BigInt.asUintN(64, identity.birthtimeNs), 48);
  header.writeUInt32LE(crc32(header.subarray(0, HEADER_CRC)), HEADER_CRC);
  return header;
}

function recordCrc(body: Uint8Array, seed: number, index: number): number {
  return crc32(body, (seed + index) >>> 0);
}

function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

function readAll(fd: number, target: Uint8Array, position: number): number {
  let done = 0;
  while (done < target.length) {
    const count = readSync(fd, target, done, target.length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}
