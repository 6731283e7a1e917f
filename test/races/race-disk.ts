/**
 * The disk of a race: an overlay, perhaps a layer in the middle, and a base that may be shorter or longer, put together as the engine
 * does. Every read and write of every file takes its time, in the order that the scheduler draws; sources may fail.
 */
import type { BlockNode, Extent } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { CopyOnRead, ExtentCache, Faults, Hold, type SourcePolicy, SourceWatch } from "../../src/filters/index.ts";
import {
  type CheckResult,
  createFormat,
  type FormatName,
  type FormatNode,
  type MappedFormatNode,
  openFormat,
} from "../../src/formats/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { FileBytes, SECTOR } from "../support/file-bytes.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { RecordingNode } from "../support/recording-node.ts";
import type { Scheduler } from "../support/scheduler.ts";
import { BASE, type Content, fillSectors, readSectors, sectorsOf } from "../support/sector-content.ts";
import type { RaceClock } from "./race-clock.ts";

/** Numbers of writes to the layer in the middle, before the race. */
const EARLIER = 50_000_000;
/** What a source tells of its zeroes is of this grain. */
const PAGE = 4096;

export interface Shape {
  readonly name: string;
  readonly format: Exclude<FormatName, "raw">;
  readonly options: Readonly<Record<string, string>>;
  /** Virtual size in sectors, about. */
  readonly sectors: number;
}

type Defers = Pick<Scheduler, "defer">;

/** No delay. */
const AT_ONCE: Defers = { defer: async (act) => act() };

/** A file below the overlay: it says which of its pages are zero, and what is under way when it is closed fails. */
class SourceFile extends RecordingNode {
  readonly #content: FileBytes;
  readonly #scheduler: Defers;
  #closed = false;

  constructor(name: string, bytes: FileBytes, scheduler: Defers) {
    super({ name, bytes, scheduler });
    this.#content = bytes;
    this.#scheduler = scheduler;
  }

  override async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    await super.read(offset, target, signal);
    if (!this.#closed) return;
    target.fill(0xcc);
    throw new StreamdiskError("shutdown", `'${this.name}' was closed`);
  }

  override async close(): Promise<void> {
    this.#closed = true;
    await super.close();
  }

  override extents(offset: number, length: number): Promise<Extent[]> {
    return this.#scheduler.defer(() => {
      const extents: Extent[] = [];
      for (let at = offset; at < offset + length; ) {
        const end = Math.min(offset + length, at - (at % PAGE) + PAGE);
        const kind = this.#content
          .view()
          .subarray(at, end)
          .some((byte) => byte !== 0)
          ? "data"
          : "zero";
        extents.push({ offset: at, length: end - at, kind, depth: 0 });
        at = end;
      }
      return extents;
    });
  }
}

export interface Source {
  readonly faults: Faults;
  readonly watch: SourceWatch;
}

export interface RaceDisk {
  readonly overlay: MappedFormatNode;
  readonly copyOnRead: CopyOnRead;
  readonly hold: Hold;
  /** From the top to the bottom. */
  readonly sources: readonly Source[];
  /** What lies below the overlay. */
  readonly layers: readonly FormatNode[];
  /** The file of the overlay. */
  readonly faults: Faults;
  /** What a reader sees before the first write. */
  readonly content: Content;
  /** Opens what is in the file of the overlay now, once it has been closed. */
  reopen(): Promise<MappedFormatNode>;
}

export interface RaceDiskOptions {
  readonly shape: Shape;
  readonly random: Random;
  readonly scheduler: Scheduler;
  readonly clock: RaceClock;
  readonly policy: SourcePolicy;
  readonly mostHeld: number;
  readonly keep: boolean;
  readonly onPause: () => void;
}

export async function makeRaceDisk(options: RaceDiskOptions): Promise<RaceDisk> {
  const { shape, random, scheduler, clock } = options;
  const sectors = Math.max(64, Math.floor(shape.sectors * (0.3 + random() * 0.9)));
  const files = [baseBytes(sectors, random)];
  if (chance(random, 0.3)) files.unshift(await middleBytes(files[0] as FileBytes, sectors, random));
  const top = new FileBytes();
  await createFormat(shape.format, new RecordingNode({ bytes: top }), {
    size: sectors * SECTOR,
    options: shape.options,
    backing: { reference: "below", format: files.length > 1 ? "qcow2" : "raw" },
  });
  const content = await contentOf(await openLayers(files), sectors);
  const sources: Source[] = [];
  // Without the cache a look at what is below takes its time too.
  const caches = chance(random, 0.6);
  const wrap = (file: BlockNode): BlockNode => {
    const faults = new Faults(file, { random, clock });
    const watch = new SourceWatch(faults, { clock });
    sources.push({ faults, watch });
    return caches ? new ExtentCache(watch) : watch;
  };
  const layers = await scheduler.until(openLayers(files, scheduler, wrap));
  const faults = new Faults(new RecordingNode({ bytes: top, scheduler, name: "overlay" }), { random, clock });
  const log = chance(random, 0.75) ? { log: new MemoryLog() } : {};
  const open = (file: BlockNode, backing: BlockNode | undefined) =>
    openFormat(shape.format, file, { readOnly: false, openBacking: async () => backing as BlockNode, ...log });
  const overlay = (await scheduler.until(open(faults, layers[0]))) as MappedFormatNode;
  const copyOnRead = new CopyOnRead(overlay, { clock, keep: options.keep });
  const watches = sources.map(({ watch }) => watch);
  const hold = new Hold(copyOnRead, { ...options, watches });
  const reopen = async () => {
    const link = overlay.backingReference?.reference;
    const below = link === undefined ? [] : await openLayers(link === "base" ? files.slice(-1) : files);
    return (await open(new RecordingNode({ bytes: top }), below[0])) as MappedFormatNode;
  };
  return { overlay, copyOnRead, hold, sources, layers, faults, content, reopen };
}

/** Opens the files below an overlay, and returns their nodes from the top to the bottom. */
async function openLayers(
  files: readonly FileBytes[],
  scheduler: Defers = AT_ONCE,
  wrap: (file: BlockNode) => BlockNode = (file) => file,
): Promise<FormatNode[]> {
  const layers: FormatNode[] = [];
  for (let i = files.length - 1; i >= 0; i--) {
    const file = wrap(new SourceFile(`layer ${i}`, files[i] as FileBytes, scheduler));
    const below = layers[0];
    const format = below === undefined ? "raw" : "qcow2";
    layers.unshift(await openFormat(format, file, { readOnly: true, openBacking: async () => below as BlockNode }));
  }
  return layers;
}

/** What a disk of so many sectors over these layers reads. */
async function contentOf([below]: readonly FormatNode[], sectors: number): Promise<Content> {
  const bytes = new Uint8Array(sectors * SECTOR);
  if (below !== undefined) await below.read(0, bytes.subarray(0, Math.min(bytes.length, below.length)));
  return readSectors(bytes, 0);
}

function baseBytes(sectors: number, random: Random): FileBytes {
  const length = Math.max(1, Math.floor(sectors * oneOf(random, [1, 1, 0.4 + random() * 0.5, 1.2])));
  const period = between(random, 2, 300);
  const share = oneOf(random, [0, 0.3, 0.7]);
  const isZero = (sector: number) => (Math.imul(Math.floor(sector / period), 0x9e3779b1) >>> 0) / 2 ** 32 < share;
  return new FileBytes(fillSectors(0, length, (sector) => (isZero(sector) ? 0 : BASE + sector)));
}

/** An image over a base, with some writes and zeroes of its own. */
async function middleBytes(base: FileBytes, sectors: number, random: Random): Promise<FileBytes> {
  const bytes = new FileBytes();
  const size = Math.floor(sectors * oneOf(random, [1, 1, 0.7, 1.3])) * SECTOR;
  const file = new RecordingNode({ bytes });
  const options = { cluster_size: oneOf(random, ["512", "4K", "64K"]) };
  await createFormat("qcow2", file, { size, options, backing: { reference: "base", format: "raw" } });
  const backing = new RecordingNode({ bytes: base });
  await using node = await openFormat("qcow2", file, { readOnly: false, openBacking: async () => backing });
  for (let i = 0; i < 12; i++) {
    const first = below(random, size / SECTOR);
    const count = Math.min(size / SECTOR - first, between(random, 1, Math.ceil(sectors / 12)));
    if (chance(random, 0.7)) await node.write(first * SECTOR, sectorsOf(EARLIER + i, first, count));
    else await node.writeZeroes(first * SECTOR, count * SECTOR);
  }
  return bytes;
}

/** Whether a check found no more than what the format, or a disk that was full, cannot avoid: clusters that nothing refers to. */
export function isClean({ corruptions, leaks, "check-errors": errors }: CheckResult, leaksAllowed: boolean): boolean {
  return corruptions === 0 && errors === 0 && (leaks === 0 || leaksAllowed);
}
