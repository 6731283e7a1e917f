/**
 * A guest at work, and a stream beside it: reads, writes, zeroes, discards, populates, flushes, now and then another size, the
 * link dropped when nothing is missing, or closing and opening again. Several requests are under way at once, overlapping ones too.
 * Each write has a number of its own, and every read is checked.
 *
 * All that happens to the file is in a journal; the model knows what may be there at each of its moments.
 */
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import { layerExtents } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import type { MappedFormatNode, MappingRecord } from "../../src/formats/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { type FileBytes, SECTOR } from "../support/file-bytes.ts";
import { Journal } from "../support/journal.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { type Failure, RecordingNode } from "../support/recording-node.ts";
import { Scheduler } from "../support/scheduler.ts";
import { DAMAGED, describeDamage, readSectors, sectorsOf, valueName } from "../support/sector-content.ts";
import { allowedNames, allows, type Change, DurableHistory, SectorModel } from "../support/sector-model.ts";
import { type Disk, openDisk } from "./disk.ts";

export interface Workload {
  readonly requests: number;
  /** Requests under way at once, at the most. */
  readonly depth: number;
  readonly resizes: boolean;
  readonly reopens: boolean;
  /** Whether leaks are given back first: those of an earlier life. */
  readonly repairs: boolean;
  /** Whether the link to the base is dropped towards the end. */
  readonly dropsLink: boolean;
  /** How often a call of the file fails: with an I/O error, for want of space, the log full too. */
  readonly faults: number;
  /** The number of its first write: numbers of an earlier life are not used again. */
  readonly firstValue: number;
}

/** Ways of a request, as often as they stand here. */
const REQUESTS = [
  ...["write", "write", "write", "write", "write", "write", "zero", "zero", "discard", "read", "read"],
  ...["populate", "populate", "populate zeroes", "flush", "flush", "checkpoint"],
] as const;

export class Guest {
  readonly journal = new Journal();
  readonly model: SectorModel;
  readonly lengths: DurableHistory<number>;
  readonly linked: DurableHistory<boolean>;
  /** What lay in the file before the first moment. */
  readonly initialBytes: FileBytes;
  /** The number of the next write. */
  nextValue: number;
  readonly #disk: Disk;
  readonly #work: Workload;
  readonly #random: Random;
  readonly #scheduler: Scheduler;
  readonly #bytes: FileBytes;
  readonly #underWay = new Set<Promise<void>>();
  #records: readonly MappingRecord[];
  #image: MappedFormatNode | undefined;
  /** Sectors below which requests may go at the moment. */
  #limit = 0;
  #failure: unknown;
  #faults = 0;
  #log: MemoryLog | undefined;

  constructor(disk: Disk, work: Workload, random: Random) {
    this.#disk = disk;
    this.#work = work;
    this.#random = random;
    this.#scheduler = new Scheduler(random);
    this.initialBytes = disk.bytes.copy();
    this.#bytes = disk.bytes.copy();
    this.#records = disk.records;
    this.nextValue = work.firstValue;
    this.model = new SectorModel(disk.value);
    this.lengths = new DurableHistory(disk.lengths);
    this.linked = new DurableHistory(disk.linked);
  }

  get #node(): MappedFormatNode {
    if (this.#image === undefined) throw new Error("The image is not open");
    return this.#image;
  }

  /** Opens the image, works, and leaves without closing it. */
  async live(): Promise<void> {
    await this.#open();
    await this.#observe();
    if (this.#work.repairs) await this.#repair();
    this.#faults = this.#work.faults;
    const { requests, depth, resizes, reopens, dropsLink } = this.#work;
    const dropAt = dropsLink ? between(this.#random, Math.floor(requests / 2), requests - 1) : -1;
    for (let request = 0; request < requests; request++) {
      while (this.#underWay.size >= depth || (!this.#scheduler.idle && chance(this.#random, 0.6))) await this.#step();
      if (request === dropAt) {
        await this.#quiet();
        this.#start(this.#dropLink());
      }
      if (resizes && chance(this.#random, 0.04)) await this.#resize();
      else if (reopens && chance(this.#random, 0.03)) await this.#reopen();
      else this.#start(this.#request(oneOf(this.#random, REQUESTS)));
    }
    await this.#quiet();
    if (this.#work.faults > 0) await this.#recover();
    if (reopens && chance(this.#random, 0.3)) await this.#close();
  }

  /** The faults are over: all must be as it should, and become durable. */
  async #recover(): Promise<void> {
    this.#faults = 0;
    if (this.#log !== undefined) this.#log.full = false;
    await this.#compareAll();
    await this.#scheduler.until(this.#flush());
  }

  async #repair(): Promise<void> {
    const { corruptions, findings } = await this.#scheduler.until(this.#node.check({ repair: "leaks" }));
    assert.equal(corruptions, 0, findings.join("\n"));
    await this.#compareAll();
  }

  async #compareAll(): Promise<void> {
    const bytes = new Uint8Array(this.#node.length);
    const begun = this.journal.mark();
    await this.#scheduler.until(this.#node.read(0, bytes));
    this.#compare(bytes, 0, begun, this.journal.mark());
  }

  #drawFault(operation: "read" | "write" | "flush"): Failure | undefined {
    if (this.#faults === 0 || !chance(this.#random, this.#faults)) return undefined;
    if (this.#log !== undefined) this.#log.full = chance(this.#random, 0.5);
    const full = operation === "write" && chance(this.#random, 0.5);
    const error = new StreamdiskError(full ? "no-space" : "io", `A ${operation} fails for the test's sake`);
    return { error, done: this.#random() };
  }

  async #open(): Promise<void> {
    const { journal } = this;
    const scheduler = this.#scheduler;
    const fails = (operation: "read" | "write" | "flush") => this.#drawFault(operation);
    const file = new RecordingNode({ bytes: this.#bytes, journal, scheduler, fails });
    const log = this.#disk.logged
      ? new MemoryLog(this.#records, (change) => {
          journal.add({ type: "log", change });
          this.#records = log?.records ?? [];
        })
      : undefined;
    this.#log = log;
    const image = await scheduler.until(openDisk(this.#disk, file, { log, scheduler }));
    this.#image = image;
    this.#limit = image.length / SECTOR;
  }

  /** What is read after opening is what counts from now on. */
  async #observe(): Promise<void> {
    const node = this.#node;
    const bytes = new Uint8Array(node.length);
    await this.#scheduler.until(node.read(0, bytes));
    const moment = this.journal.mark();
    this.#compare(bytes, 0, moment, moment);
    for (const [sector, value] of readSectors(bytes, 0).entries()) {
      // One value, and no question when it came: nothing is to be remembered.
      if (this.model.afterCrash(sector, moment, "loss") === value) continue;
      this.model.change(sector, 1, value, moment).acknowledged = moment;
    }
    assert(this.lengths.at(moment).includes(node.length), `The length is ${node.length}`);
    assert(this.linked.at(moment).includes(node.backingReference !== undefined), "The link");
    this.lengths.change(node.length, moment)(moment);
    this.linked.change(node.backingReference !== undefined, moment)(moment);
  }

  /** What a read from one moment to another found. */
  #compare(bytes: Uint8Array, first: number, begun: number, ended: number): void {
    for (const [index, value] of readSectors(bytes, first).entries()) {
      const sector = first + index;
      const allowed = this.model.forReader(sector, begun, ended);
      if (allows(allowed, value)) continue;
      const holds = value === DAMAGED ? describeDamage(bytes.slice(index * SECTOR)) : valueName(value);
      const told = `it may be ${allowedNames(allowed)} (${this.model.tell(sector)})`;
      throw new Error(`A read from ${begun} to ${ended} found in sector ${sector}: ${holds}; ${told}`);
    }
  }

  #start(request: Promise<void>): void {
    const done: Promise<void> = request
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .then(() => {
        this.#underWay.delete(done);
      });
    this.#underWay.add(done);
  }

  async #step(): Promise<void> {
    await this.#scheduler.step();
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #quiet(): Promise<void> {
    await nextTurn();
    while (this.#underWay.size > 0) await this.#step();
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #request(what: (typeof REQUESTS)[number]): Promise<void> {
    try {
      await this.#doRequest(what);
    } catch (error) {
      const injected = error instanceof StreamdiskError && error.message.includes("for the test's sake");
      if (!injected) throw error;
    }
  }

  async #doRequest(what: (typeof REQUESTS)[number]): Promise<void> {
    switch (what) {
      case "write":
        return this.#write();
      case "zero":
        return this.#zero(false);
      case "discard":
        return this.#zero(true);
      case "read":
        return this.#read();
      case "populate":
        return this.#populate();
      case "populate zeroes":
        return this.#populateZeroes();
      case "flush":
        return this.#flush();
      case "checkpoint":
        return this.#node.checkpoint();
    }
  }

  /** A range of sectors; few places are hot, so that requests meet. */
  #range(): { first: number; count: number } {
    const random = this.#random;
    const limit = this.#limit;
    const cluster = (this.#node.clusterSize ?? SECTOR) / SECTOR;
    const start = chance(random, 0.5)
      ? below(random, limit)
      : below(random, 8) * Math.floor(limit / 8) + below(random, 4);
    const aligned = chance(random, 0.4) ? Math.floor(start / cluster) * cluster : start;
    const first = Math.min(aligned, limit - 1);
    const most = oneOf(random, [1, 3, 8, cluster, cluster * 4, Math.ceil(limit / 12)]);
    return { first, count: Math.min(limit - first, chance(random, 0.4) ? most : between(random, 1, most)) };
  }

  async #write(): Promise<void> {
    const { first, count } = this.#range();
    const value = this.nextValue++;
    const bytes = sectorsOf(value, first, count);
    const change = this.model.change(first, count, value, this.journal.mark());
    await this.#acknowledge(change, this.#node.write(first * SECTOR, bytes));
    bytes.fill(0xee); // The buffer is the caller's again: whoever still uses it shows himself.
  }

  async #zero(discard: boolean): Promise<void> {
    const { first, count } = this.#range();
    const change = this.model.change(first, count, 0, this.journal.mark(), discard);
    const [offset, length] = [first * SECTOR, count * SECTOR];
    await this.#acknowledge(
      change,
      discard ? this.#node.discard(offset, length) : this.#node.writeZeroes(offset, length),
    );
  }

  /** What fails may have happened, or a part of it; but it is over. */
  async #acknowledge(change: Change, done: Promise<void>): Promise<void> {
    try {
      await done;
    } catch (error) {
      change.weak = true;
      throw error;
    } finally {
      change.acknowledged = this.journal.mark();
    }
  }

  async #read(): Promise<void> {
    const { first, count } = this.#range();
    const bytes = new Uint8Array(count * SECTOR);
    const begun = this.journal.mark();
    const done = chance(this.#random, 0.5) && this.#node.readNow?.(first * SECTOR, bytes);
    if (!done) await this.#node.read(first * SECTOR, bytes);
    this.#compare(bytes, first, begun, this.journal.mark());
  }

  async #flush(): Promise<void> {
    const flush = this.model.flush(this.journal.mark());
    await this.#node.flush();
    flush.acknowledged = this.journal.mark();
  }

  /** The range in whole grains, or to the end of the disk. */
  #grains(): { offset: number; length: number } {
    const { grain } = this.#node;
    const { first, count } = this.#range();
    const offset = Math.floor((first * SECTOR) / grain) * grain;
    const end = Math.ceil(((first + count) * SECTOR) / grain) * grain;
    const limit = this.#limit * SECTOR;
    if (end <= limit) return { offset, length: end - offset };
    const whole = limit === this.#node.length ? limit : Math.floor(limit / grain) * grain;
    return { offset, length: Math.max(0, whole - offset) };
  }

  async #populate(): Promise<void> {
    const { offset, length } = this.#grains();
    if (this.#disk.base === undefined || this.#node.backingReference === undefined || length === 0)
      return this.#write();
    await this.#populateRange(offset, length);
  }

  async #populateRange(offset: number, length: number): Promise<void> {
    const data = this.#disk.base?.read(offset, length) ?? new Uint8Array(length);
    const populated = await this.#node.populate(offset, data);
    assert(populated >= 0 && populated <= length, `populate of ${length} bytes says ${populated}`);
    data.fill(0xee);
  }

  async #populateZeroes(): Promise<void> {
    const { base } = this.#disk;
    const { offset, length } = this.#grains();
    if (base === undefined || this.#node.backingReference === undefined) return this.#zero(false);
    const { grain } = this.#node;
    const zero = (at: number) => base.read(at, Math.min(grain, offset + length - at)).every((byte) => byte === 0);
    let start = offset;
    while (start < offset + length && !zero(start)) start += grain;
    let end = start;
    while (end < offset + length && zero(end)) end = Math.min(end + grain, offset + length);
    if (end > start) await this.#node.populateZeroes(start, end - start);
  }

  /** Populates all that is missing, zeroes perhaps, then breaks the link. */
  async #dropLink(): Promise<void> {
    const node = this.#node;
    const { base } = this.#disk;
    if (base === undefined || node.backingReference === undefined) return;
    for await (const { offset, length, kind } of layerExtents(node)) {
      if (kind !== "missing") continue;
      if (base.read(offset, length).some((byte) => byte !== 0)) await this.#populateRange(offset, length);
      else if (chance(this.#random, 0.5)) await node.populateZeroes(offset, length);
    }
    const acknowledge = this.linked.change(false, this.journal.mark());
    await node.changeBacking(undefined, undefined);
    acknowledge(this.journal.mark());
  }

  async #resize(): Promise<void> {
    await this.#quiet();
    const node = this.#node;
    const old = node.length / SECTOR;
    const sectors = Math.max(
      8,
      chance(this.#random, 0.5) ? old + between(this.#random, 1, 900) : old - between(this.#random, 1, 600),
    );
    this.#limit = Math.min(old, sectors);
    const begun = this.journal.mark();
    const zeroes = this.model.change(this.#limit, Math.abs(old - sectors), 0, begun);
    const acknowledge = this.lengths.change(sectors * SECTOR, begun);
    const resizing = node.resize(sectors * SECTOR).then(() => {
      const moment = this.journal.mark();
      zeroes.acknowledged = moment;
      zeroes.durable = moment;
      acknowledge(moment);
      this.#limit = sectors;
    });
    this.#start(resizing);
  }

  async #reopen(): Promise<void> {
    await this.#close();
    await this.#open();
  }

  async #close(): Promise<void> {
    await this.#quiet();
    // A read may still be under way: it fails, or finds what is there.
    const reading = chance(this.#random, 0.3) ? this.#read().catch(ifClosed) : undefined;
    const flush = this.model.flush(this.journal.mark());
    await this.#scheduler.until(this.#node.close());
    flush.acknowledged = this.journal.mark();
    if (reading !== undefined) await this.#scheduler.until(reading);
  }
}

function ifClosed(error: unknown): void {
  if (!(error instanceof StreamdiskError && error.code === "shutdown")) throw error;
}
