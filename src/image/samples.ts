import { type BlockNode, chainExtents, type Extent, layerExtents } from "../block/index.ts";

const EDGE = 2 ** 20;
const SAMPLES = 64;
const SAMPLE = 65536;

interface Range {
  readonly offset: number;
  readonly length: number;
}

/** What samples of two nodes say: how much was found equal, and where the first that differs does. */
export interface Samples {
  readonly compared: number;
  readonly difference: number | undefined;
}

/** Compares the first and the last MiB, and ranges at random among what either has data in. */
export async function differenceInSamples(a: BlockNode, b: BlockNode): Promise<Samples> {
  const length = Math.min(a.length, b.length);
  const ranges = [
    { offset: 0, length: Math.min(EDGE, length) },
    { offset: Math.max(0, length - EDGE), length: Math.min(EDGE, length) },
    ...(await pickData(chainExtents(a, 0, length), SAMPLES / 2)),
    ...(await pickData(chainExtents(b, 0, length), SAMPLES / 2)),
  ];
  let compared = 0;
  for (const range of ranges) {
    const difference = await differenceAt(a, b, range);
    if (difference !== undefined) return { compared, difference };
    compared += range.length;
  }
  return { compared, difference: undefined };
}

/**
 * How many bytes of ranges at random that the upper one has itself are the same below.
 *
 * @param local its extents, within the length of both
 */
export async function agreeingBytes(
  upper: BlockNode,
  below: BlockNode,
  local: AsyncIterable<Extent> = layerExtents(upper, 0, Math.min(upper.length, below.length)),
): Promise<number> {
  let agreeing = 0;
  for (const range of await pickData(local, SAMPLES)) {
    if ((await differenceAt(upper, below, range)) === undefined) agreeing += range.length;
  }
  return agreeing;
}

/**
 * Ranges at random among the data, each byte as likely as another: with every extent that comes by, each pick changes to it with
 * the probability that its length is of all lengths so far.
 */
async function pickData(extents: AsyncIterable<Extent>, count: number): Promise<Range[]> {
  const picked: Range[] = [];
  let total = 0;
  for await (const { kind, offset, length } of extents) {
    if (kind !== "data") continue;
    total += length;
    for (let i = 0; i < count; i++) {
      if (Math.random() * total < length) picked[i] = sampleOf(offset, length);
    }
  }
  return picked;
}

/** An aligned piece of an extent. */
function sampleOf(offset: number, length: number): Range {
  const place = offset + Math.floor(Math.random() * length);
  const start = Math.max(offset, place - (place % SAMPLE));
  return { offset: start, length: Math.min(SAMPLE, offset + length - start) };
}

async function differenceAt(a: BlockNode, b: BlockNode, { offset, length }: Range): Promise<number | undefined> {
  const bytesA = Buffer.alloc(length);
  const bytesB = Buffer.alloc(length);
  await Promise.all([a.read(offset, bytesA), b.read(offset, bytesB)]);
  if (bytesA.equals(bytesB)) return undefined;
  return offset + bytesA.findIndex((byte, index) => byte !== bytesB[index]);
}
