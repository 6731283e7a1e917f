/**
 * Compares what readers of two images see. Both are mapped first: where both say zero nothing is read, where one does only
 * the other is. What is left is read in pieces, some at a time; the answer is the lowest offset that differs.
 */
import { type BlockNode, chainExtents, isZero } from "../block/index.ts";
import type { FormatName } from "../formats/index.ts";
import { type SourceOptions, shownReference } from "../sources/index.ts";
import { openImage } from "./open.ts";
import { inParallel } from "./parallel.ts";

export interface CompareImagesOptions {
  readonly formatA?: FormatName;
  readonly formatB?: FormatName;
  readonly allowBacking?: readonly string[] | "any";
  readonly sourceOptions?: SourceOptions;
  /** Sizes must be equal too. Otherwise the tail of the longer one must read as zeroes. @default false */
  readonly strict?: boolean;
  readonly signal?: AbortSignal;
  /** Called now and then with a fraction in [0, 1]. */
  readonly onProgress?: (fraction: number) => void;
}

export interface Comparison {
  readonly identical: boolean;
  /** The first byte at which they differ; for `size` the length of the shorter one. */
  readonly difference?: { readonly kind: "content" | "size"; readonly offset: number };
  readonly lengthA: number;
  readonly lengthB: number;
  readonly warnings: readonly string[];
}

/** Compares what readers of two images see. */
export async function compareImages(a: string, b: string, options: CompareImagesOptions = {}): Promise<Comparison> {
  const { formatA, formatB, allowBacking, sourceOptions, strict, signal } = options;
  await using imageA = await openImage(a, { format: formatA, readOnly: true, allowBacking, sourceOptions });
  await using imageB = await openImage(b, { format: formatB, readOnly: true, allowBacking, sourceOptions });
  const [lengthA, lengthB] = [imageA.node.length, imageB.node.length];
  const warnings = [...imageA.warnings, ...imageB.warnings];
  const about = { lengthA, lengthB, warnings };
  if (lengthA !== lengthB) {
    if (strict) return { identical: false, difference: { kind: "size", offset: Math.min(lengthA, lengthB) }, ...about };
    warnings.push(`'${shownReference(a)}' has ${lengthA} bytes and '${shownReference(b)}' ${lengthB}`);
  }
  const offset = await firstDifference(imageA.node, imageB.node, { signal, onProgress: options.onProgress });
  if (offset === undefined) return { identical: true, ...about };
  return { identical: false, difference: { kind: "content", offset }, ...about };
}

const PIECE = 2 ** 20;
const PIECES_AT_ONCE = 4;

interface Pair {
  readonly offset: number;
  readonly length: number;
  /** Which of the two has data there. */
  readonly a: boolean;
  readonly b: boolean;
}

/** The first byte at which two nodes differ; past its end a node reads as zeroes. */
export async function firstDifference(
  a: BlockNode,
  b: BlockNode,
  options: Pick<CompareImagesOptions, "signal" | "onProgress"> = {},
): Promise<number | undefined> {
  const { signal, onProgress } = options;
  const end = Math.max(a.length, b.length);
  const buffers: Uint8Array[] = [];
  let first: number | undefined;
  await inParallel(pieces(pairs(a, b, end)), PIECES_AT_ONCE, async (pair) => {
    signal?.throwIfAborted();
    const buffer = buffers.pop() ?? Buffer.allocUnsafeSlow(2 * PIECE);
    const differs = await differenceIn(a, b, pair, buffer, signal);
    buffers.push(buffer);
    if (differs !== undefined) first = Math.min(first ?? differs, differs);
    onProgress?.(end === 0 ? 1 : (pair.offset + pair.length) / end);
    return first === undefined;
  });
  signal?.throwIfAborted();
  return first;
}

/** Where at least one of the two has data. */
async function* pairs(a: BlockNode, b: BlockNode, end: number): AsyncGenerator<Pair, void, undefined> {
  const runsA = dataRanges(a, end);
  const runsB = dataRanges(b, end);
  let nextA = (await runsA.next()).value;
  let nextB = (await runsB.next()).value;
  let offset = 0;
  while (nextA && nextB) {
    const stop = Math.min(nextA.end, nextB.end);
    if (nextA.data || nextB.data) yield { offset, length: stop - offset, a: nextA.data, b: nextB.data };
    offset = stop;
    if (nextA.end === stop) nextA = (await runsA.next()).value;
    if (nextB.end === stop) nextB = (await runsB.next()).value;
  }
}

/** Runs of data and of zeroes, by their ends, up to `end`. */
async function* dataRanges(
  node: BlockNode,
  end: number,
): AsyncGenerator<{ readonly end: number; readonly data: boolean }, undefined, undefined> {
  for await (const { offset, length, kind } of chainExtents(node))
    yield { end: offset + length, data: kind === "data" };
  if (node.length < end) yield { end, data: false };
  return undefined;
}

async function* pieces(all: AsyncIterable<Pair>): AsyncGenerator<Pair, void, undefined> {
  for await (const { offset, length, a, b } of all) {
    const end = offset + length;
    for (let start = offset; start < end; start += PIECE)
      yield { offset: start, length: Math.min(PIECE, end - start), a, b };
  }
}

async function differenceIn(
  a: BlockNode,
  b: BlockNode,
  pair: Pair,
  buffer: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<number | undefined> {
  const { offset, length } = pair;
  const bytesA = buffer.subarray(0, length);
  const bytesB = buffer.subarray(length, 2 * length);
  await Promise.all([pair.a && a.read(offset, bytesA, signal), pair.b && b.read(offset, bytesB, signal)]);
  if (pair.a && pair.b) {
    if (Buffer.compare(bytesA, bytesB) === 0) return undefined;
    return offset + bytesA.findIndex((byte, index) => byte !== bytesB[index]);
  }
  const only = pair.a ? bytesA : bytesB;
  return isZero(only) ? undefined : offset + only.findIndex((byte) => byte !== 0);
}
