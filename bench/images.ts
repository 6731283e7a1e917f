/**
 * The images that are measured upon. Data and holes take turns in runs of uneven length, as in a used disk; half of it is
 * data. What is random does not compress; what is compressible does, to about half.
 */
import { randomFillSync } from "node:crypto";
import { closeSync, existsSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { must } from "./child.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
/** Lengths of runs, over and over: of data, of nothing, of data... */
const RUNS = [64, 64, 1024, 256, 256, 1024, 4096, 4096, 128, 2048, 2048, 128].map((kibibytes) => kibibytes * KIB);
/** To make one costs more time than all else. */
const PART_COMPRESSED = 1 / 4;

export type Source = "holes.raw" | "zeroes.raw" | "holes.qcow2" | "compressed.qcow2";

export class Images {
  readonly #directory: string;
  readonly #size: number;

  /** @param size virtual size in MiB */
  constructor(directory: string, size: number) {
    this.#directory = directory;
    this.#size = size;
  }

  path(name: string): string {
    return join(this.#directory, name);
  }

  /** Makes an image that is read from, unless it is there already. */
  makeSource(source: Source): void {
    const path = this.path(source);
    if (existsSync(path)) return;
    const length = this.#size * MIB;
    if (source === "holes.raw") makeRaw(path, length, random, "holes");
    else if (source === "zeroes.raw") makeRaw(path, length, random, "zeroes");
    else if (source === "holes.qcow2") {
      this.makeSource("holes.raw");
      must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", this.path("holes.raw"), path);
    } else {
      const raw = this.path("compressible.raw");
      makeRaw(raw, length * PART_COMPRESSED, compressible, "holes");
      must("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, path);
      rmSync(raw);
    }
  }

  /** Makes an overlay of which nothing is local yet, or half: 8 MiB in turn. */
  makeOverlay(path: string, format: string, source: Source, populated: boolean): void {
    this.makeSource(source);
    const baseFormat = source.endsWith(".raw") ? "raw" : "qcow2";
    must("qemu-img", "create", "-q", "-f", format, "-b", this.path(source), "-F", baseFormat, path);
    if (!populated) return;
    const writes: string[] = [];
    for (let at = 0; at < this.#size; at += 16) writes.push("-c", `write -q -P ${1 + (at % 251)} ${at}M 8M`);
    must("qemu-io", "-f", format, ...writes, path);
  }
}

function makeRaw(path: string, length: number, bytes: (length: number) => Uint8Array, rest: "holes" | "zeroes"): void {
  const file = openSync(path, "w");
  try {
    ftruncateSync(file, length);
    let position = 0;
    for (let index = 0; position < length; index++) {
      const run = Math.min(RUNS[index % RUNS.length] as number, length - position);
      if (index % 2 === 0) writeSync(file, bytes(run), 0, run, position);
      else if (rest === "zeroes") writeSync(file, new Uint8Array(run), 0, run, position);
      position += run;
    }
  } finally {
    closeSync(file);
  }
}

function random(length: number): Uint8Array {
  return randomFillSync(new Uint8Array(length));
}

function compressible(length: number): Uint8Array {
  return random(length).map((byte) => byte & 15);
}
