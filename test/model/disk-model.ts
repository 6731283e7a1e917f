/**
 * A disk beside an array of bytes: every action is done to both, and what is read must be the same. Of requests that are under way
 * together, each sector may come out as after any order of those that touch it, and a reader may see it at any point of that.
 */
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Extent } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import type { MappedFormatNode } from "../../src/formats/index.ts";
import { overlayTarget, stepStream } from "../../src/stream/index.ts";
import type { Random } from "../support/draw.ts";
import { type FileBytes, SECTOR } from "../support/file-bytes.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { Scheduler } from "../support/scheduler.ts";
import type { Action, Place, Request } from "./actions.ts";
import { type Beginning, openCell, patterned } from "./cells.ts";

interface Range {
  readonly offset: number;
  readonly length: number;
}

/** A request with its place on the disk, and the bytes of a write. */
interface Placed extends Range {
  readonly request: Request;
  readonly bytes: Uint8Array;
}

export class ModelledDisk {
  readonly #beginning: Beginning;
  readonly #random: Random;
  readonly #logged: boolean;
  #content: Uint8Array;
  #linked: boolean;
  /** An end without a close leaves leaks where nothing repairs them. */
  #mayLeak = false;
  /** Something was populated that no checkpoint has handed over yet. */
  #populated = false;
  #file: FileBytes;
  #log: MemoryLog | undefined;
  #scheduler: Scheduler;
  #image: MappedFormatNode | undefined;

  constructor(beginning: Beginning, random: Random, logged: boolean) {
    this.#beginning = beginning;
    this.#random = random;
    this.#logged = logged;
    this.#content = new Uint8Array(beginning.content);
    this.#linked = beginning.base !== undefined;
    this.#file = beginning.file.copy();
    this.#log = logged ? new MemoryLog() : undefined;
    this.#scheduler = new Scheduler(random);
  }

  get file(): FileBytes {
    return this.#file;
  }

  get content(): Uint8Array {
    return this.#content;
  }

  get #node(): MappedFormatNode {
    if (this.#image === undefined) throw new Error("The image is not open");
    return this.#image;
  }

  async open(): Promise<void> {
    this.#scheduler = new Scheduler(this.#random);
    const log = this.#log === undefined ? {} : { log: this.#log };
    this.#image = await this.#scheduler.until(
      openCell(this.#beginning, this.#file, { readOnly: false, scheduler: this.#scheduler, ...log }),
    );
  }

  /** Closes it, and looks at what is left. */
  async finish(): Promise<void> {
    await this.#do((node) => node.close());
    assert.equal(this.#log?.records.length ?? 0, 0, "the log is empty after a clean close");
    await using closed = await openCell(this.#beginning, this.#file, { readOnly: true });
    assert.equal(closed.length, this.#content.length);
    assert.equal(closed.backingReference !== undefined, this.#linked);
    const bytes = new Uint8Array(closed.length);
    await closed.read(0, bytes);
    this.#mustBe(bytes, { offset: 0, length: bytes.length }, "after the close");
    const { corruptions, leaks, findings } = await closed.check();
    assert.equal(corruptions, 0, findings.join("\n"));
    if (!this.#mayLeak) assert.equal(leaks, 0, findings.join("\n"));
  }

  async #checkpoint(): Promise<void> {
    await this.#do((node) => node.checkpoint());
    this.#populated = false;
  }

  #do<T>(act: (node: MappedFormatNode) => Promise<T>): Promise<T> {
    return this.#scheduler.until(act(this.#node));
  }

  #resolve({ at, unit, count }: Place): Range {
    const { clusterSize, grain, length } = this.#node;
    const size = { byte: 1, sector: SECTOR, grain, cluster: clusterSize ?? SECTOR }[unit];
    const offset = Math.floor(((at / 10_000) * length) / size) * size;
    return { offset, length: Math.min(count * size, length - offset) };
  }

  /** The range in whole grains, or to the end of the disk. */
  #grains(place: Place): Range {
    const { grain, length } = this.#node;
    const range = this.#resolve(place);
    const offset = Math.floor(range.offset / grain) * grain;
    const end = Math.min(length, Math.ceil((range.offset + range.length) / grain) * grain);
    return { offset, length: end - offset };
  }

  async act(action: Action): Promise<void> {
    switch (action.do) {
      case "write":
      case "zero":
      case "discard":
      case "read":
        return this.#together([action]);
      case "together":
        return this.#together(action.requests);
      case "populate":
        return this.#populate(this.#grains(action.place), action.number);
      case "populate zeroes":
        return this.#populate(this.#grains(action.place), undefined);
      case "extents":
        await this.#extents(this.#resolve(action.place));
        return;
      case "resize":
        return this.#resize(Math.ceil((this.#beginning.content.length * action.to) / 10_000 / SECTOR) * SECTOR);
      case "step":
        return this.#step(action.clusters * (this.#node.clusterSize ?? SECTOR));
      case "flush":
        return this.#do((node) => node.flush());
      case "checkpoint":
        return this.#checkpoint();
      case "check": {
        const { corruptions, findings } = await this.#do((node) => node.check());
        assert.equal(corruptions, 0, findings.join("\n"));
        return;
      }
      case "reopen":
        await this.finish();
        return this.open();
      case "kill":
        return this.#kill();
    }
  }

  /** The process is gone, and whatever it still had to do; file and log are as they were. Only what was populated may be lost. */
  async #kill(): Promise<void> {
    const { cell } = this.#beginning;
    if (this.#populated) await this.#checkpoint();
    this.#file = this.#file.copy();
    this.#log = this.#logged ? new MemoryLog(this.#log?.records ?? []) : undefined;
    this.#mayLeak ||= cell.format === "qed" || cell.options.compat === "v2";
    await this.open();
  }

  async #together(requests: readonly Request[]): Promise<void> {
    const placed = requests.map((request): Placed => {
      const range = this.#resolve(request.place);
      const { length } = range;
      const bytes = request.do === "write" ? patterned(length, request.number) : new Uint8Array(length);
      return { ...range, request, bytes };
    });
    await this.#do(async (node) => {
      await nextTurn();
      await Promise.all(placed.map((one) => this.#start(node, one)));
    });
    const changes = placed.filter(({ request }) => request.do !== "read");
    for (const read of placed) {
      if (read.request.do !== "read") continue;
      for (const sector of sectorsOf(read)) {
        const bytes = read.bytes.subarray(sector.offset - read.offset, sector.offset - read.offset + sector.length);
        this.#mustBeOneOf(bytes, sector, this.#outcomes(sector, changes, false), "read beside changes");
      }
    }
    await this.#takeOver(changes);
  }

  #start(node: MappedFormatNode, { request, offset, length, bytes }: Placed): Promise<void> {
    switch (request.do) {
      case "write":
        return node.write(offset, bytes);
      case "zero":
        return node.writeZeroes(offset, length);
      case "discard":
        return node.discard(offset, length);
      case "read":
        return node.readNow?.(offset, bytes) ? Promise.resolve() : node.read(offset, bytes);
    }
  }

  /** Reads what changes have touched, compares it with what it may be, and makes that the model. */
  async #takeOver(changes: readonly Placed[]): Promise<void> {
    const found: Uint8Array[] = [];
    for (const change of changes) {
      const bytes = new Uint8Array(change.length);
      await this.#do((node) => node.read(change.offset, bytes));
      found.push(bytes);
      for (const sector of sectorsOf(change)) {
        const part = bytes.subarray(sector.offset - change.offset, sector.offset - change.offset + sector.length);
        this.#mustBeOneOf(part, sector, this.#outcomes(sector, changes, true), `after ${change.request.do}`);
      }
    }
    for (const [index, { offset }] of changes.entries()) this.#content.set(found[index] as Uint8Array, offset);
  }

  /**
   * What part of a sector may hold after changes that touch it, in any order.
   * @param all whether all of them are done: otherwise any number may be
   */
  #outcomes(part: Range, changes: readonly Placed[], all: boolean): Uint8Array[] {
    const end = part.offset + part.length;
    const touching = changes.filter((change) => change.offset < end && part.offset < change.offset + change.length);
    const before = this.#content.slice(part.offset, end);
    if (touching.every((change) => change.offset <= part.offset && end <= change.offset + change.length)) {
      // Each of them decides alone, if it comes last.
      const last = touching.map((change) => overlaid(before, part, change));
      return all && touching.some(({ request }) => request.do !== "discard") ? last : [before, ...last];
    }
    const found: Uint8Array[] = [];
    const walk = (bytes: Uint8Array, left: readonly Placed[]) => {
      if (left.length === 0 || !all) found.push(bytes);
      for (const change of left) {
        const rest = left.filter((other) => other !== change);
        if (change.request.do === "discard") walk(bytes, rest);
        walk(overlaid(bytes, part, change), rest);
      }
    };
    walk(before, touching);
    return found;
  }

  #mustBeOneOf(bytes: Uint8Array, at: Range, allowed: readonly Uint8Array[], when: string): void {
    if (allowed.some((one) => Buffer.compare(one, bytes) === 0)) return;
    const from = bytes.findIndex((byte, index) => allowed.every((one) => one[index] !== byte));
    const shown = (one: Uint8Array) => Buffer.from(one.subarray(Math.max(0, from), from + 8)).toString("hex");
    const may = [...new Set(allowed.map(shown))].join(" or ");
    assert.fail(`${when}: at ${at.offset + from} there is ${shown(bytes)}, and not ${may}`);
  }

  #mustBe(bytes: Uint8Array, { offset, length }: Range, when: string): void {
    const expected = this.#content.subarray(offset, offset + length);
    if (Buffer.compare(bytes, expected) === 0) return;
    const at = bytes.findIndex((byte, index) => byte !== expected[index]);
    assert.fail(`${when}: the byte at ${offset + at} is ${bytes[at]}, not ${expected[at]}`);
  }

  /** What is missing takes other bytes than the base has, so that it shows; everything else stays. */
  async #populate({ offset, length }: Range, number: number | undefined): Promise<void> {
    const missing = (await this.#extents({ offset, length })).filter(({ kind }) => kind === "missing");
    const bytes = number === undefined ? new Uint8Array(length) : patterned(length, number);
    const populated = await this.#do((node) =>
      number === undefined ? node.populateZeroes(offset, length) : node.populate(offset, bytes),
    );
    this.#populated = true;
    // Where nothing lies below, zeroes are there already.
    const counted = number === undefined && !this.#linked ? [] : missing;
    assert.equal(
      populated,
      counted.reduce((sum, extent) => sum + extent.length, 0),
      "bytes populated",
    );
    for (const extent of missing) {
      const from = extent.offset - offset;
      this.#content.set(bytes.subarray(from, from + extent.length), extent.offset);
    }
    await this.#compare({ offset, length }, "after populate");
  }

  async #compare(range: Range, when: string): Promise<void> {
    const bytes = new Uint8Array(range.length);
    await this.#do((node) => node.read(range.offset, bytes));
    this.#mustBe(bytes, range, when);
  }

  /** Extents cover the range, and speak the truth of it. */
  async #extents({ offset, length }: Range): Promise<Extent[]> {
    const found: Extent[] = [];
    let position = offset;
    while (position < offset + length) {
      const extents = await this.#do((node) => node.extents(position, offset + length - position));
      assert(extents.length > 0, "no extents");
      for (const extent of extents) {
        assert.equal(extent.offset, position, "extents touch");
        assert(extent.length > 0 && extent.offset + extent.length <= offset + length, "extents lie in the range");
        this.#mustBeTrue(extent);
        position += extent.length;
        found.push(extent);
      }
    }
    return found;
  }

  #mustBeTrue({ offset, length, kind, hostOffset }: Extent): void {
    const there = new Uint8Array(length);
    if (kind === "missing" && this.#linked) {
      const base = this.#beginning.base ?? new Uint8Array(0);
      there.set(base.subarray(Math.min(offset, base.length), offset + length));
    } else if (kind === "data") {
      if (hostOffset === undefined) return;
      const file = this.#file.view();
      there.set(file.subarray(hostOffset, Math.min(file.length, hostOffset + length)));
    }
    this.#mustBe(there, { offset, length }, `an extent of kind ${kind}`);
  }

  async #resize(length: number): Promise<void> {
    const { cell } = this.#beginning;
    const resizing = this.#do((node) => node.resize(length));
    if (cell.options.compat === "v2" && cell.beginning === "snapshot" && length !== this.#content.length) {
      await assert.rejects(resizing, { code: "refused" });
      return;
    }
    await resizing;
    const resized = new Uint8Array(length);
    resized.set(this.#content.subarray(0, length));
    this.#content = resized;
    assert.equal(this.#node.length, length);
    await this.#compare({ offset: 0, length }, "after resize");
  }

  /** One step of a stream; after the last one the disk stands alone. */
  async #step(length: number): Promise<void> {
    if (!this.#linked) return;
    try {
      const { done } = await this.#do((node) => stepStream(overlayTarget(node), { length }));
      this.#linked = !done;
    } catch (error) {
      const refused = error instanceof StreamdiskError && error.code === "refused";
      if (!refused || this.#beginning.cell.beginning !== "snapshot") throw error;
    }
    assert.equal(this.#node.backingReference !== undefined, this.#linked);
  }
}

/** The parts of a range that lie in one sector each. */
function* sectorsOf({ offset, length }: Range): Generator<Range, void, undefined> {
  for (let at = offset; at < offset + length; ) {
    const to = Math.min(offset + length, at + SECTOR - (at % SECTOR));
    yield { offset: at, length: to - at };
    at = to;
  }
}

/** `bytes`, which lie at `part`, after a change. */
function overlaid(bytes: Uint8Array, part: Range, change: Placed): Uint8Array {
  const result = bytes.slice();
  const from = Math.max(part.offset, change.offset);
  const to = Math.min(part.offset + part.length, change.offset + change.length);
  result.set(change.bytes.subarray(from - change.offset, to - change.offset), from - part.offset);
  return result;
}
