/**
 * A disk that a guest is to work upon: an image file, perhaps over a base, and what is known of what it may hold. It is either
 * new, or what a crash left (crash-state.ts).
 */
import "../support/zlib-at-once.ts";
import type { BlockNode } from "../../src/block/index.ts";
import type { FormatName, MappedFormatNode, MappingRecord } from "../../src/formats/index.ts";
import { openFormat } from "../../src/formats/index.ts";
import type { CrashKind } from "../support/crash-state.ts";
import { FileBytes, SECTOR } from "../support/file-bytes.ts";
import type { MemoryLog } from "../support/memory-log.ts";
import { RecordingNode } from "../support/recording-node.ts";
import type { Scheduler } from "../support/scheduler.ts";
import { BASE, type Content, fillSectors } from "../support/sector-content.ts";
import type { Allowed } from "../support/sector-model.ts";

/** A raw backing file, with stretches of zeroes. */
export class Base {
  readonly bytes: Uint8Array;
  readonly #file: FileBytes;
  readonly #isZero: (sector: number) => boolean;

  constructor(length: number, isZero: (sector: number) => boolean) {
    this.#isZero = isZero;
    this.bytes = fillSectors(0, length / SECTOR, (sector) => this.valueOf(sector, length));
    this.#file = new FileBytes(this.bytes);
  }

  /** What a reader of the overlay sees in a sector that comes from here. */
  valueOf(sector: number, length: number = this.bytes.length): number {
    return sector * SECTOR >= length || this.#isZero(sector) ? 0 : BASE + sector;
  }

  /** Its bytes from `offset`, zeroes past its end. */
  read(offset: number, length: number): Uint8Array {
    const target = new Uint8Array(length);
    target.set(this.bytes.subarray(offset, offset + length));
    return target;
  }

  /** A node at once, or one whose reads take their time. */
  node(scheduler?: Scheduler): BlockNode {
    return new RecordingNode({
      name: "base.raw",
      bytes: this.#file,
      ...(scheduler !== undefined && { scheduler }),
    });
  }
}

export interface Disk {
  readonly format: FormatName;
  /** Whether a clean close leaves no leaked clusters. */
  readonly closesWithoutLeaks: boolean;
  /** Whether its reference counts are repaired when it is opened. */
  readonly lazyCounts: boolean;
  /** Not version 2 with snapshots: they share its size. */
  readonly resizable: boolean;
  readonly base: Base | undefined;
  readonly bytes: FileBytes;
  /** What an earlier process left of its log. */
  readonly records: readonly MappingRecord[];
  /** Whether there is a log at all. */
  readonly logged: boolean;
  readonly value: (sector: number, kind: CrashKind) => Allowed;
  readonly lengths: readonly number[];
  /** Whether the header names the base: what may be. */
  readonly linked: readonly boolean[];
  /** What the internal snapshot holds, if there is one. */
  readonly snapshot: Content | undefined;
}

export interface OpenDiskOptions {
  readonly readOnly?: boolean;
  readonly forCheck?: boolean;
  readonly log?: MemoryLog | undefined;
  /** Absent: the base is read at once. */
  readonly scheduler?: Scheduler;
}

/** Opens the image of a disk that lies in `file`. */
export async function openDisk(disk: Disk, file: BlockNode, options: OpenDiskOptions = {}): Promise<MappedFormatNode> {
  const { readOnly = false, forCheck = false, log, scheduler } = options;
  const node = await openFormat(disk.format, file, {
    readOnly,
    forCheck,
    ...(log !== undefined && { log }),
    openBacking: async ({ reference, format }) => {
      if (disk.base === undefined || reference !== "base.raw" || format !== "raw") {
        throw new Error(`The image names '${reference}' (${format}) as its backing file`);
      }
      return disk.base.node(scheduler);
    },
  });
  if (!("populate" in node)) throw new Error(`A ${disk.format} image cannot be populated`);
  return node as MappedFormatNode;
}
