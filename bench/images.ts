/**
 * The images that are measured upon. Data and holes take turns in runs of uneven length, as in a used disk; half of it is
 * data. What is random does not compress; what is compressible does, to about half.
 */
import { randomFillSync } from "node:crypto";
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { must } from "./child.ts";

const KIB = 1024;
/** Lengths of runs, over and over: of data, of nothing, of data... */
const RUNS = [64, 64, 1024, 256, 256, 1024, 4096, 4096, 128, 2048, 2048, 128].map((kibibytes) => kibibytes * KIB);

export type Filling = "random" | "compressible";

/**
 * Makes a raw file of which half is data.
 *
 * @param rest what the other half is: holes, or zeroes that take space
 */
export function makeRaw(
  path: string,
  length: number,
  filling: Filling = "random",
  rest: "holes" | "zeroes" = "holes",
): void {
  const file = openSync(path, "w");
  try {
    ftruncateSync(file, length);
    let position = 0;
    for (let index = 0; position < length; index++) {
      const most = RUNS[index % RUNS.length] as number;
      const run = Math.min(most, length - position);
      if (index % 2 === 0) writeSync(file, bytes(run, filling), 0, run, position);
      else if (rest === "zeroes") writeSync(file, new Uint8Array(run), 0, run, position);
      position += run;
    }
  } finally {
    closeSync(file);
  }
}

function bytes(length: number, filling: Filling): Uint8Array {
  const all = randomFillSync(new Uint8Array(length));
  if (filling === "compressible") for (let at = 0; at < length; at++) all[at] = (all[at] as number) & 15;
  return all;
}

/** Makes an overlay of which nothing is local yet, or every second 8 MiB. */
export function makeOverlay(path: string, format: string, base: string, baseFormat: string, populated?: number): void {
  rmSync(path, { force: true });
  must("qemu-img", "create", "-q", "-f", format, "-b", base, "-F", baseFormat, path);
  const writes: string[] = [];
  for (let at = 0; at < (populated ?? 0); at += 16) writes.push("-c", `write -q -P ${1 + (at % 251)} ${at}M 8M`);
  if (writes.length > 0) must("qemu-io", "-f", format, ...writes, path);
}
