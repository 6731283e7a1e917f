/**
 * Random changes to a disk, made by us or by qemu-io, each with what the model of it must become. Requests are aligned to nothing, to
 * sectors or to clusters, and longer than one cluster now and then.
 */
import type { BlockNode, OverlayNode } from "../../src/block/index.ts";
import { layerExtents } from "../../src/block/index.ts";
import { roundDown } from "../../src/formats/mapped/geometry.ts";
import type { ByteModel, Range } from "./byte-model.ts";
import { below, between, chance, oneOf, type Random } from "./draw.ts";
import { peerDoes } from "./peer-images.ts";

/** Where to write on a disk, and in which units. */
export interface Playground {
  readonly random: Random;
  /** Parts of the disk that are worth it: its beginning, its end, the border between two tables. */
  readonly windows: readonly Range[];
  readonly clusterSize: number;
  /** Bytes of the longest write. */
  readonly longest: number;
  /** Requests of these multiples only. */
  readonly unit?: number;
}

/** The windows of a disk of that length, where one table of the mapping speaks of `span` bytes. */
export function windowsOf(length: number, span: number, clusterSize: number): Range[] {
  const width = Math.max(256 * 1024, clusterSize * 2);
  const starts = [0, span - width, length - width].map((start) => Math.max(0, roundDown(start, clusterSize)));
  return starts
    .filter((offset) => offset < length)
    .map((offset) => ({ offset, length: Math.min(width + clusterSize, length - offset) }));
}

/** A range in one of the windows. */
function drawRange({ random, windows, clusterSize, longest, unit: given }: Playground, disk: number): Range {
  const window = oneOf(random, windows);
  const unit = given ?? oneOf(random, [1, 512, 4096, clusterSize]);
  const end = Math.min(window.offset + window.length, disk);
  const start = Math.min(window.offset, roundDown(disk - 1, clusterSize));
  const offset = Math.max(start, roundDown(between(random, start, end - 1), unit));
  const units = between(random, 1, Math.max(1, Math.min(8, Math.floor(longest / unit))));
  const most = unit === 1 ? between(random, 1, Math.min(longest, 3 * clusterSize)) : units * unit;
  return { offset, length: Math.max(1, Math.min(most, end - offset)) };
}

function drawBytes(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const words = new DataView(bytes.buffer);
  let state = below(random, 2 ** 32) | 1;
  for (let at = 0; at + 4 <= length; at += 4) {
    state = Math.imul(state, 1664525) + 1013904223;
    words.setUint32(at, state >>> 0);
  }
  for (let at = length & ~3; at < length; at++) bytes[at] = 0xee;
  return bytes;
}

/** Bytes of zeroes in one request: the clusters of some are as large as a disk, and of such a request each is written. */
const LONGEST_ZEROES = 16 * 1024 * 1024;

/** Changes the disk through our node, the model with it. */
export async function weChange(
  node: BlockNode | OverlayNode,
  model: ByteModel,
  ground: Playground,
  count: number,
): Promise<void> {
  const { random } = ground;
  for (let i = 0; i < count; i++) {
    const range = drawRange(ground, model.length);
    const { offset, length } = range;
    switch (below(random, 8)) {
      case 0:
      case 1:
      case 2: {
        const bytes = drawBytes(random, length);
        await node.write(offset, bytes);
        await model.write(offset, bytes);
        break;
      }
      case 3:
      case 4:
        await node.writeZeroes(offset, length);
        await model.zero(range);
        break;
      case 5:
        await node.discard(offset, length);
        await model.discarded(range, node);
        break;
      case 6:
        if ("populate" in node) await wePopulate(node, model, range, random);
        break;
      default:
        await node.flush();
    }
  }
}

/** What is missing takes the bytes given, everything else stays. */
async function wePopulate(node: OverlayNode, model: ByteModel, range: Range, random: Random): Promise<void> {
  const { grain } = node;
  const offset = range.offset - (range.offset % grain);
  const end = Math.min(node.length, Math.ceil((range.offset + range.length) / grain) * grain);
  const length = end - offset;
  if (length > LONGEST_ZEROES) return;
  const missing: Range[] = [];
  for await (const extent of layerExtents(node, offset, length)) if (extent.kind === "missing") missing.push(extent);
  const zeroes = chance(random, 0.3);
  // Without a backing file what is missing reads as zeroes already, and zeroes are all that could be fetched.
  if (node.backing === undefined || zeroes) {
    await node.populateZeroes(offset, length);
    for (const hole of missing) await model.zero(hole);
    return;
  }
  const bytes = drawBytes(random, length);
  await node.populate(offset, bytes);
  for (const hole of missing) {
    await model.write(hole.offset, bytes.subarray(hole.offset - offset, hole.offset - offset + hole.length));
  }
}

/** Changes the disk through one qemu-io, the model with it. @returns what was discarded, for the model to ask about */
export async function peerChanges(
  path: string,
  format: string,
  model: ByteModel,
  ground: Playground,
  count: number,
): Promise<Range[]> {
  const { random } = ground;
  const commands: string[] = [];
  for (let i = 0; i < count; i++) {
    const range = drawRange(ground, model.length);
    const { offset, length } = range;
    const kind = below(random, 5);
    if (kind < 3) {
      const pattern = between(random, 1, 255);
      commands.push(`write -P ${pattern} ${offset} ${length}`);
      await model.write(offset, new Uint8Array(length).fill(pattern));
    } else {
      commands.push(`write -z ${kind === 3 ? "-u " : ""}${offset} ${length}`);
      await model.zero(range);
    }
    if (chance(random, 0.1)) commands.push("flush");
  }
  const discarded: Range[] = [];
  for (let i = 0; i < 2; i++) {
    const range = drawRange(ground, model.length);
    commands.push(`discard ${range.offset} ${range.length}`);
    discarded.push(range);
  }
  peerDoes(path, format, commands);
  return discarded;
}
