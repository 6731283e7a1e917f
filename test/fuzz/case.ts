/**
 * One fuzz case: a damaged image is opened in every way, described, mapped, read, checked, written to and opened again.
 *
 * - Whatever the image, the only errors are StreamdiskErrors, the work is bounded, and guest data never reaches metadata.
 * - What could be opened can be opened after any of it.
 * - An image in which `check` finds no damage and that reads to its end is *sound*, unless it maps something twice: it then behaves as any image, byte for byte,
 *   also when the process dies without closing it.
 */
import assert from "node:assert/strict";
import { type BlockNode, isOverlay, isZero, layerExtents } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { type FormatNode, type MappingLog, type MappingRecord, openFormat } from "../../src/formats/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { BoundedNode, type Bounds } from "./bounded-node.ts";
import { countsPastEnd, findMarker, MARKER, mapsTwice } from "./metadata.ts";
import type { Mutant } from "./mutate.ts";

/** Of one phase. An image of the corpus needs a hundredth of it. */
const BOUNDS: Bounds = { operations: 50_000, bytes: 2 ** 29 };
const MOST_EXTENTS = 100_000;
/** Sound images up to this size are compared whole. */
const MOST_CONTENT = 4 * 1024 * 1024;
const BASE = MemoryNode.of(new Uint8Array(150_000).fill(0xbb), { name: "base" });

/** What became of a case, for statistics: a fuzzer whose images are never opened tests nothing. */
export type Outcome = "refused" | "read" | "written" | "sound";

/** Something other than a typed error, with the phase that it happened in. */
export class FuzzFailure extends Error {
  override readonly name = "FuzzFailure";
}

export async function runCase(mutant: Mutant, random: Random): Promise<Outcome> {
  const memory = MemoryNode.of(mutant.bytes, { name: "image" });
  if (mutant.length > mutant.bytes.length) await memory.resize(mutant.length);
  const run = new CaseRun(mutant, new BoundedNode(memory, BOUNDS), random);
  return run.run();
}

/** A log that outlives a node, as tmpfs does. */
class PlainLog implements MappingLog {
  #old: MappingRecord[] = [];
  #current: MappingRecord[] = [];

  replay(): readonly MappingRecord[] {
    return [...this.#old, ...this.#current];
  }

  append(cluster: number, entry: Uint8Array): void {
    this.#current.push({ cluster, entry: entry.slice() });
  }

  rotate(): void {
    this.#old = [...this.#old, ...this.#current];
    this.#current = [];
  }

  dropOld(): void {
    this.#old = [];
  }

  remove(): void {
    this.#old = [];
    this.#current = [];
  }
}

class CaseRun {
  readonly #mutant: Mutant;
  readonly #file: BoundedNode;
  readonly #random: Random;
  readonly #openBacking: (() => Promise<BlockNode>) | undefined;
  readonly #log: PlainLog | undefined;
  /** What the disk holds, while it is known. */
  #content: Uint8Array | undefined;
  #leaks = 0;

  constructor(mutant: Mutant, file: BoundedNode, random: Random) {
    this.#mutant = mutant;
    this.#file = file;
    this.#random = random;
    this.#openBacking = chance(random, 0.1) ? undefined : async () => BASE;
    this.#log = chance(random, 0.5) ? new PlainLog() : undefined;
  }

  async run(): Promise<Outcome> {
    const readable = await this.#phase("read", () => this.#look({ readOnly: true }));
    await this.#phase("check", () => this.#look({ readOnly: true, forCheck: true }));
    const node = await this.#phase("open for writing", () => this.#open({ readOnly: false }));
    if (node === undefined) return readable === undefined ? "refused" : "read";
    await this.#phase("write", () => this.#write(node));
    const crash = chance(this.#random, 0.25);
    // Only version 3 of qcow2 counts anew what a dead process left.
    if (crash && this.#mutant.bytes[7] !== 3) this.#leaks = Number.POSITIVE_INFINITY;
    const closed = crash ? await settled() : await this.#phase("close", () => node.close().then(() => true));
    await this.#mustHaveNoMarker();
    if (this.#content !== undefined && closed === undefined) this.#fail("close", "a sound image could not be closed");
    if (crash || chance(this.#random, 0.2)) await this.#again();
    if (readable !== undefined) await this.#mustOpen();
    return this.#content === undefined ? "written" : "sound";
  }

  /** Runs a phase: undefined when it ended with a typed error. */
  async #phase<T>(what: string, act: () => Promise<T>): Promise<T | undefined> {
    this.#file.restart();
    let result: T | undefined;
    try {
      result = await act();
    } catch (error) {
      if (!(error instanceof StreamdiskError)) this.#fail(what, error);
    }
    if (this.#file.exceeded !== undefined) this.#fail(what, this.#file.exceeded);
    return result;
  }

  #fail(phase: string, error: unknown): never {
    const { image, steps } = this.#mutant;
    throw new FuzzFailure(`${image.name} (${steps.join("; ")}): ${phase}: ${error}`, { cause: error });
  }

  #open(options: { readonly readOnly: boolean; readonly forCheck?: boolean }): Promise<FormatNode> {
    const openBacking = this.#openBacking;
    return openFormat(this.#mutant.image.format, this.#file, {
      ...options,
      ...(openBacking && { openBacking }),
      ...(this.#log && { log: this.#log }),
    });
  }

  /** Opens it, looks at all of it, and finds out whether it is sound. */
  async #look(options: { readonly readOnly: true; readonly forCheck?: boolean }): Promise<true> {
    const node = await this.#open(options);
    JSON.stringify(node.describe());
    await this.#phase("extents", () => walkExtents(node));
    for (let i = 0; i < 12; i++) {
      const offset = below(this.#random, oneOf(this.#random, [node.length, Math.min(node.length, 2 ** 18)]));
      const bytes = new Uint8Array(Math.min(node.length - offset, oneOf(this.#random, [1, 512, 5000, 100_000])));
      await this.#phase("read", () => node.read(offset, bytes));
    }
    const checked = await this.#phase("check", () => node.check());
    if (options.forCheck || checked?.corruptions !== 0 || node.length > MOST_CONTENT) return true;
    if (node.format === "qcow2" && (await mapsTwice(this.#file))) return true;
    const content = new Uint8Array(node.length);
    const read = await this.#phase("read all", () => node.read(0, content).then(() => true));
    if (read) {
      this.#content = content;
      // Bitmaps are void after the first change, and their clusters leaked.
      const mayLeak = hasBitmaps(node) || (node.format === "qcow2" && (await countsPastEnd(this.#file)));
      this.#leaks = mayLeak ? Number.POSITIVE_INFINITY : checked.leaks;
    }
    return true;
  }

  async #write(node: FormatNode): Promise<void> {
    for (let left = between(this.#random, 2, 16); left > 0; left--) {
      if (chance(this.#random, 0.7)) {
        await this.#change(node, 0, node.length);
        continue;
      }
      // Several at a time, each in its own part of the disk.
      const part = Math.floor(node.length / 4);
      await Promise.all([0, 1, 2, 3].map((index) => this.#change(node, index * part, part)));
    }
    if (chance(this.#random, 0.2)) await this.#resize(node);
    if (chance(this.#random, 0.1)) await this.#phase("check", () => node.check({ repair: "leaks" }));
    if (chance(this.#random, 0.1)) await this.#dropBacking(node);
  }

  /** One change inside [start, start + room). */
  async #change(node: FormatNode, start: number, room: number): Promise<void> {
    if (room === 0) return;
    const random = this.#random;
    const offset = start + below(random, oneOf(random, [room, Math.min(room, 2 ** 18)]));
    const length = Math.min(oneOf(random, [1, 512, 4096, 9000, 70_000]), start + room - offset);
    switch (below(random, 6)) {
      case 0:
      case 1: {
        const bytes = markedBytes(offset, length);
        if (await this.#done("write", () => node.write(offset, bytes))) this.#content?.set(bytes, offset);
        return;
      }
      case 2:
        if (await this.#done("write zeroes", () => node.writeZeroes(offset, length))) {
          this.#content?.fill(0, offset, offset + length);
        }
        return;
      case 3:
        await this.#done("discard", () => node.discard(offset, length));
        return this.#adoptDiscard(node, offset, length);
      case 4:
        return this.#populate(node, offset, length);
      default:
        await this.#done("flush", () => node.flush());
    }
  }

  /** Whether it was done. A sound image must do it. */
  async #done(what: string, act: () => Promise<unknown>): Promise<boolean> {
    try {
      await act();
      return true;
    } catch (error) {
      if (!(error instanceof StreamdiskError)) this.#fail(what, error);
      // A file of that length cannot grow: what was done and what was not is not known then.
      if (error.code === "no-space") this.#content = undefined;
      if (this.#content !== undefined) this.#fail(what, error);
      return false;
    }
  }

  async #adoptDiscard(node: FormatNode, offset: number, length: number): Promise<void> {
    const content = this.#content?.subarray(offset, offset + length);
    if (content === undefined) return;
    const now = new Uint8Array(length);
    await this.#done("read", () => node.read(offset, now));
    if (Buffer.compare(now, content) === 0) return;
    for (let at = 0; at < length; at++) {
      if (now[at] !== content[at] && now[at] !== 0) this.#fail("discard", `byte ${offset + at} is ${now[at]}`);
    }
    content.set(now);
  }

  /** With what the disk shows anyway, so that it does not matter whether a crash takes it away again. */
  async #populate(node: FormatNode, from: number, wanted: number): Promise<void> {
    if (!isOverlay(node)) return;
    const offset = from - (from % node.grain);
    const end = Math.min(node.length, Math.ceil((from + wanted) / node.grain) * node.grain);
    const bytes = new Uint8Array(Math.min(end - offset, 2 ** 23));
    if (bytes.length < end - offset) return;
    if (this.#openBacking === undefined && node.backingReference !== undefined) return;
    if (!(await this.#done("read", () => node.read(offset, bytes)))) return;
    await this.#done("populate", () =>
      isZero(bytes) ? node.populateZeroes(offset, bytes.length) : node.populate(offset, bytes),
    );
  }

  async #resize(node: FormatNode): Promise<void> {
    const length = Math.max(0, node.length + oneOf(this.#random, [-512, -70_144, 512, 70_144, 1_048_576]));
    if (Math.abs(node.length) > 2 ** 40) return;
    const resized = await this.#phase("resize", () => node.resize(length).then(() => true));
    if (!resized || this.#content === undefined) return;
    const content = new Uint8Array(length);
    content.set(this.#content.subarray(0, length));
    this.#content = content;
  }

  /** What it showed of the base is gone then. */
  async #dropBacking(node: FormatNode): Promise<void> {
    if (!isOverlay(node) || node.backingReference === undefined) return;
    const dropped = await this.#phase("drop the backing file", () =>
      node.changeBacking(undefined, undefined).then(() => true),
    );
    if (!dropped || this.#content === undefined) return;
    await this.#done("read", () => node.read(0, this.#content as Uint8Array));
  }

  /** Opens it for writing once more, with what the log says, and closes it. */
  async #again(): Promise<void> {
    const node = await this.#phase("open again", () => this.#open({ readOnly: false }));
    if (node === undefined) {
      if (this.#content !== undefined) this.#fail("open again", "a sound image could not be opened again");
      return;
    }
    await this.#phase("close again", () => node.close());
  }

  async #mustOpen(): Promise<void> {
    const node = await this.#phase("read after all", () => this.#open({ readOnly: true }));
    if (node === undefined) this.#fail("read after all", "it could be opened, and cannot any more");
    if (this.#content === undefined) return;
    assert.equal(node.length, this.#content.length);
    const now = new Uint8Array(node.length);
    await this.#done("read", () => node.read(0, now));
    const expected = this.#content;
    if (Buffer.compare(now, expected) !== 0) {
      const at = now.findIndex((byte, index) => byte !== expected[index]);
      this.#fail("read after all", `byte ${at} is ${now[at]}, not ${expected[at]}`);
    }
    const checked = await this.#phase("check after all", () => node.check());
    if (checked?.corruptions !== 0 || checked.leaks > this.#leaks) {
      this.#fail("check after all", `${this.#leaks} leaks before, then ${JSON.stringify(checked)}`);
    }
  }

  async #mustHaveNoMarker(): Promise<void> {
    const where = await findMarker(this.#mutant.image.format, this.#file);
    if (where !== undefined) this.#fail("write", `guest data lies in ${where}`);
  }
}

function hasBitmaps(node: FormatNode): boolean {
  return node.describe()["format-specific"]?.data["bitmaps"] !== undefined;
}

/** Waits for what goes on behind the last request. */
async function settled(): Promise<true> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  return true;
}

async function walkExtents(node: FormatNode): Promise<void> {
  let position = 0;
  let count = 0;
  for await (const { offset, length } of layerExtents(node)) {
    assert.equal(offset, position);
    assert.ok(length > 0);
    position += length;
    if (++count === MOST_EXTENTS) return;
  }
  assert.equal(position, node.length);
}

/** The marker all over, at the same places of the disk whatever the request. */
function markedBytes(offset: number, length: number): Uint8Array {
  const skipped = offset % MARKER.length;
  return Buffer.alloc(skipped + length, MARKER).subarray(skipped);
}
