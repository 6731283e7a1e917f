/**
 * A race: guests read, write, zero, discard, flush and resize a disk while copy-on-read keeps what they read, a stream (or steps, or
 * one after the other) fetches the rest and drops the link, mappings are handed to the kernel, and sources fail and come back. Which of
 * all that is under way does its next bit is drawn from numbers, so the same numbers give the same race again.
 *
 * Every write has a number of its own, and every read is held against a model of each sector: it must find what was there before
 * or what was being written meanwhile, and never anything older. At the end all of the disk does, the image is sound, and it
 * reads the same when it is opened again.
 */
import assert from "node:assert/strict";
import { layerExtents } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import type { SourcePolicy } from "../../src/filters/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { SECTOR } from "../support/file-bytes.ts";
import { Scheduler } from "../support/scheduler.ts";
import { DAMAGED, describeDamage, readSectors, sectorsOf, valueName } from "../support/sector-content.ts";
import { allowedNames, allows, type Change, SectorModel } from "../support/sector-model.ts";
import { RaceClock } from "./race-clock.ts";
import { isClean, makeRaceDisk, type RaceDisk, type Shape } from "./race-disk.ts";
import { Streaming } from "./streaming.ts";
import { Troubles } from "./troubles.ts";

/** What happened in some races, to see that they were ones. */
export interface Counts {
  requests: number;
  failed: number;
  held: number;
  troubles: number;
  fetched: number;
  kept: number;
  linksDropped: number;
  resizes: number;
}

export function noCounts(): Counts {
  return { requests: 0, failed: 0, held: 0, troubles: 0, fetched: 0, kept: 0, linksDropped: 0, resizes: 0 };
}

/** Ways of a request, as often as they stand here. */
const REQUESTS = [
  ...["read", "read", "read", "read", "read", "write", "write", "write", "write", "zero", "zero", "discard"],
  ...["cache", "flush", "checkpoint"],
] as const;

const FOREVER = Number.POSITIVE_INFINITY;

export async function race(shape: Shape, random: Random, counts: Counts): Promise<void> {
  const scheduler = new Scheduler(random);
  const clock = new RaceClock();
  const depth = between(random, 1, 12);
  const holdMs = oneOf(random, [FOREVER, FOREVER, 0, 300, 5000]);
  const policy: SourcePolicy = { holdMs, afterwards: "error" };
  // Who is held for ever, and never too many, must never get an error.
  const patient = holdMs === FOREVER && chance(random, 0.8);
  const mostHeld = patient ? FOREVER : 2;
  const keep = chance(random, 0.85);
  const options = { shape, random, scheduler, clock, policy, mostHeld, keep, onPause: () => {} };
  const disk = await makeRaceDisk(options);
  await new Race(disk, { shape, random, scheduler, clock, depth, patient, counts }).run();
}

interface RaceOptions {
  readonly shape: Shape;
  readonly random: Random;
  readonly scheduler: Scheduler;
  readonly clock: RaceClock;
  /** Requests under way at once. */
  readonly depth: number;
  /** Whether a lost source is no reason for an error. */
  readonly patient: boolean;
  readonly counts: Counts;
}

class Race {
  readonly #disk: RaceDisk;
  readonly #options: RaceOptions;
  readonly #random: Random;
  readonly #model: SectorModel;
  readonly #troubles: Troubles;
  readonly #streaming: Streaming;
  readonly #underWay = new Set<Promise<void>>();
  readonly #resizes: boolean;
  #moment = 0;
  #nextValue = 1;
  /** Sectors below which requests may go at the moment. */
  #limit: number;
  #failure: { readonly error: unknown } | undefined;

  constructor(disk: RaceDisk, options: RaceOptions) {
    const { random, clock } = options;
    this.#disk = disk;
    this.#options = options;
    this.#random = random;
    this.#model = new SectorModel((sector) => disk.content[sector] ?? 0);
    this.#limit = disk.overlay.length / SECTOR;
    this.#troubles = new Troubles(disk, random);
    this.#streaming = new Streaming(disk, random, clock);
    // Version 2 cannot resize an image with snapshots; these have none.
    this.#resizes = chance(random, 0.3);
  }

  async run(): Promise<void> {
    const { depth, scheduler, counts } = this.#options;
    const requests = between(this.#random, 20, 120);
    const hurryAt = below(this.#random, requests);
    for (let request = 0; request < requests; request++) {
      if (request === hurryAt) this.#streaming.hurry();
      while (this.#underWay.size >= depth || (!scheduler.idle && chance(this.#random, 0.6))) await this.#step();
      if (this.#resizes && chance(this.#random, 0.04)) await this.#resize();
      this.#start(this.#request(oneOf(this.#random, REQUESTS)));
    }
    this.#troubles.end();
    await this.#until(() => this.#underWay.size === 0);
    await this.#streaming.finish((done) => this.#until(done));
    await this.#until(() => this.#disk.sources.every(({ watch }) => watch.loss === undefined));
    await this.#verify();
    counts.fetched += this.#disk.copyOnRead.counts.fetched;
    counts.kept += this.#disk.copyOnRead.counts.kept;
    counts.troubles += this.#troubles.count;
    counts.linksDropped += this.#disk.overlay.backing === this.#disk.layers[0] ? 0 : 1;
  }

  async #step(): Promise<void> {
    const { scheduler, clock, counts } = this.#options;
    const idle = scheduler.idle;
    await scheduler.step();
    clock.pass(idle);
    this.#troubles.step();
    this.#streaming.step();
    counts.held = Math.max(counts.held, this.#disk.hold.held);
    if (this.#failure !== undefined) throw this.#failure.error;
    if (this.#streaming.failure !== undefined && !this.#troubles.changed) throw this.#streaming.failure.error;
  }

  async #until(done: () => boolean): Promise<void> {
    do await this.#step();
    while (!done());
  }

  async #settled<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    await this.#until(() => settled);
    return promise;
  }

  #start(request: Promise<void>): void {
    this.#options.counts.requests++;
    const done: Promise<void> = request
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .then(() => {
        this.#underWay.delete(done);
      });
    this.#underWay.add(done);
  }

  #request(what: (typeof REQUESTS)[number]): Promise<void> {
    const { hold, overlay } = this.#disk;
    switch (what) {
      case "read":
        return this.#read();
      case "write":
        return this.#write();
      case "zero":
        return this.#zero(false);
      case "discard":
        return this.#zero(true);
      case "cache": {
        const { first, count } = this.#range();
        return this.#allowed(hold.cache(first * SECTOR, count * SECTOR), first + count);
      }
      case "flush":
        return this.#allowed(hold.flush(), 0);
      case "checkpoint":
        return this.#allowed(overlay.checkpoint(), 0);
    }
  }

  /** Waits for a request that may fail for reasons that there are; false when it did. */
  async #allowed(request: Promise<void>, end: number, by: "guest" | "host" = "guest"): Promise<void> {
    await this.#succeeds(request, end, by);
  }

  async #succeeds(request: Promise<void>, end: number, by: "guest" | "host" = "guest"): Promise<boolean> {
    try {
      await request;
      return true;
    } catch (error) {
      if (!(error instanceof StreamdiskError)) throw error;
      const { code } = error;
      const reasons: Partial<Record<typeof code, boolean>> = {
        // A resize is not a guest's request: nobody holds it.
        "source-lost": this.#troubles.count > 0 && !(this.#options.patient && by === "guest"),
        changed: this.#troubles.changed,
        "no-space": this.#troubles.full,
        // The disk has become shorter under it.
        "invalid-argument": this.#resizes && end > this.#limit,
      };
      if (reasons[code] !== true) throw error;
      this.#options.counts.failed++;
      return false;
    }
  }

  /** A range of sectors; few places are hot, so that requests meet. */
  #range(): { first: number; count: number } {
    const random = this.#random;
    const limit = this.#limit;
    const cluster = (this.#disk.overlay.clusterSize ?? SECTOR) / SECTOR;
    const start = chance(random, 0.4)
      ? below(random, limit)
      : below(random, 4) * Math.floor(limit / 4) + below(random, 4);
    const aligned = chance(random, 0.4) ? Math.floor(start / cluster) * cluster : start;
    const first = Math.min(aligned, limit - 1);
    const most = oneOf(random, [1, 3, 8, cluster, cluster * 4, 128, Math.ceil(limit / 4)]);
    return { first, count: Math.min(limit - first, chance(random, 0.4) ? most : between(random, 1, most)) };
  }

  async #write(): Promise<void> {
    const { first, count } = this.#range();
    const value = this.#nextValue++;
    const bytes = sectorsOf(value, first, count);
    const change = this.#model.change(first, count, value, this.#moment++);
    await this.#changing(change, this.#disk.hold.write(first * SECTOR, bytes), first + count);
    bytes.fill(0xee); // The buffer is the caller's again: whoever still uses it shows himself.
  }

  async #zero(discard: boolean): Promise<void> {
    const { first, count } = this.#range();
    const change = this.#model.change(first, count, 0, this.#moment++, discard);
    const { hold } = this.#disk;
    const request = discard
      ? hold.discard(first * SECTOR, count * SECTOR)
      : hold.writeZeroes(first * SECTOR, count * SECTOR);
    await this.#changing(change, request, first + count);
  }

  /** One that fails may have happened in part, and is over all the same. */
  async #changing(change: Change, request: Promise<void>, end: number): Promise<void> {
    const done = await this.#succeeds(request, end);
    if (!done) Object.assign(change, { weak: true });
    change.acknowledged = this.#moment++;
  }

  async #read(): Promise<void> {
    const { first, count } = this.#range();
    // Of the first and the last sector perhaps a part.
    const head = chance(this.#random, 0.2) ? below(this.#random, SECTOR) : 0;
    const tail = chance(this.#random, 0.2) ? below(this.#random, SECTOR - head) : 0;
    const bytes = new Uint8Array(count * SECTOR);
    const begun = this.#moment++;
    const part = bytes.subarray(head, bytes.length - tail);
    if (!(await this.#succeeds(this.#disk.hold.read(first * SECTOR + head, part), first + count))) return;
    const ended = this.#moment++;
    this.#complete(bytes, first, head, tail, { begun, ended });
    this.#compare(bytes, first, begun, ended);
  }

  /** Fills in what was not read of the outer sectors, by the value that fits what was. */
  #complete(
    bytes: Uint8Array,
    first: number,
    head: number,
    tail: number,
    when: { begun: number; ended: number },
  ): void {
    const last = bytes.length / SECTOR - 1;
    for (const index of new Set([head > 0 ? 0 : -1, tail > 0 ? last : -1])) {
      if (index < 0) continue;
      const from = index === 0 ? head : 0;
      const to = index === last ? SECTOR - tail : SECTOR;
      const sector = bytes.subarray(index * SECTOR, (index + 1) * SECTOR);
      const allowed = this.#model.forReader(first + index, when.begun, when.ended);
      for (const value of typeof allowed === "number" ? [allowed] : allowed) {
        const whole = sectorsOf(value, first + index, 1);
        if (Buffer.compare(whole.subarray(from, to), sector.subarray(from, to)) === 0) sector.set(whole);
      }
    }
  }

  /** What a read from one moment to another found. */
  #compare(bytes: Uint8Array, first: number, begun: number, ended: number): void {
    for (const [index, value] of readSectors(bytes, first).entries()) {
      const sector = first + index;
      const allowed = this.#model.forReader(sector, begun, ended);
      if (allows(allowed, value)) continue;
      const holds = value === DAMAGED ? describeDamage(bytes.slice(index * SECTOR)) : valueName(value);
      const told = `it may be ${allowedNames(allowed)} (${this.#model.tell(sector)})`;
      throw new Error(`A read from ${begun} to ${ended} found in sector ${sector}: ${holds}; ${told}`);
    }
  }

  /** Requests are under way meanwhile, new ones below both ends; the stream rests. */
  async #resize(): Promise<void> {
    const random = this.#random;
    const { copyOnRead, overlay } = this.#disk;
    if (!(await this.#streaming.rest((done) => this.#until(done)))) return;
    const old = overlay.length / SECTOR;
    const sectors = Math.max(8, chance(random, 0.5) ? old + between(random, 1, 900) : old - between(random, 1, 900));
    this.#limit = Math.min(old, sectors);
    const change = this.#model.change(this.#limit, Math.abs(old - sectors), 0, this.#moment++);
    const resizing = copyOnRead.resize(sectors * SECTOR).then(
      () => {
        change.acknowledged = this.#moment++;
        this.#limit = sectors;
      },
      (error: unknown) => {
        Object.assign(change, { weak: true });
        change.acknowledged = this.#moment++;
        throw error;
      },
    );
    this.#options.counts.resizes++;
    this.#start(this.#allowed(resizing, 0, "host"));
    await this.#until(() => change.acknowledged < FOREVER);
    this.#streaming.resume();
  }

  async #verify(): Promise<void> {
    const { overlay, hold, layers, reopen } = this.#disk;
    const leaksAllowed = this.#options.shape.format === "qed" || this.#troubles.full;
    const bytes = new Uint8Array(overlay.length);
    for (const { offset, length } of await this.#settled(this.#readable())) {
      const part = bytes.subarray(offset, offset + length);
      await this.#settled(hold.read(offset, part));
      this.#compare(part, offset / SECTOR, this.#moment, this.#moment);
    }
    assert.equal(hold.held, 0);
    await this.#settled(hold.close());
    const open = await this.#settled(overlay.check());
    assert(isClean(open, leaksAllowed), `open: ${JSON.stringify(open)}`);
    await this.#settled(overlay.close());
    for (const layer of layers) await this.#settled(layer.close());
    await using again = await reopen();
    const found = new Uint8Array(again.length);
    await again.read(0, found);
    this.#compare(found, 0, this.#moment, this.#moment);
    const closed = await again.check();
    assert(isClean(closed, leaksAllowed), `closed: ${JSON.stringify(closed)}`);
  }

  /** All of the disk, or what is local when a source has changed. */
  async #readable(): Promise<{ offset: number; length: number }[]> {
    const { overlay } = this.#disk;
    if (!this.#troubles.changed) return [{ offset: 0, length: overlay.length }];
    const found = [];
    for await (const extent of layerExtents(overlay)) if (extent.kind !== "missing") found.push(extent);
    return found;
  }
}
