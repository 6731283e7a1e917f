/**
 * A process to be killed: opens an image, and writes to it, several requests at a time, until it is. It says on standard output what
 * it begins and what was acknowledged, each a line that the kernel has before it goes on:
 *
 *     begin NUMBER write|zero|discard|flush FIRST COUNT      sectors
 *     done NUMBER
 *
 * Beside it a stream populates, of which it says nothing.
 */
import { writeSync } from "node:fs";
import { isOverlay, layerExtents, type OverlayNode } from "../../src/block/index.ts";
import { openImage } from "../../src/image/index.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { SECTOR } from "../support/file-bytes.ts";
import { sectorsOf } from "../support/sector-content.ts";
import { rng } from "../support/seed.ts";

const [path = "", name = "", firstNumber = ""] = process.argv.slice(2);
const DEPTH = 6;

function say(line: string): void {
  writeSync(1, `${line}\n`);
}

async function writeOn(node: OverlayNode, random: Random, numbers: Iterator<number, number>): Promise<never> {
  const sectors = node.length / SECTOR;
  for (;;) {
    const number = numbers.next().value;
    const what = oneOf(random, ["write", "write", "write", "write", "write", "zero", "discard", "flush"]);
    const flush = what === "flush" && chance(random, 0.2);
    const first = below(random, sectors);
    const count = Math.min(sectors - first, between(random, 1, oneOf(random, [1, 8, 300])));
    say(`begin ${number} ${flush ? "flush" : what === "flush" ? "write" : what} ${first} ${count}`);
    if (flush) await node.flush();
    else if (what === "zero") await node.writeZeroes(first * SECTOR, count * SECTOR);
    else if (what === "discard") await node.discard(first * SECTOR, count * SECTOR);
    else await node.write(first * SECTOR, sectorsOf(number, first, count));
    say(`done ${number}`);
  }
}

async function stream(node: OverlayNode): Promise<void> {
  const { backing, grain } = node;
  if (backing === undefined) return;
  for await (const { offset, length, kind } of layerExtents(node)) {
    for (let at = offset; kind === "missing" && at < offset + length; at += grain) {
      const data = new Uint8Array(Math.min(grain, node.length - at));
      await backing.read(at, data);
      await node.populate(at, data);
    }
  }
}

function* count(from: number): Generator<number, number, undefined> {
  for (let number = from; ; number++) yield number;
}

await using image = await openImage(path);
const { node } = image;
if (!isOverlay(node)) throw new Error(`'${path}' is no overlay`);
const random = rng(name);
const numbers = count(Number(firstNumber));
await Promise.all([stream(node), ...Array.from({ length: DEPTH }, () => writeOn(node, random, numbers))]);
