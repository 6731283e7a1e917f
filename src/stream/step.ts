import { StreamdiskError } from "../errors/index.ts";
import { stoppedBy } from "./stopped.ts";
import { walk } from "./tally.ts";
import type { StreamExtent, StreamTarget } from "./target.ts";

export interface StepOptions {
  /** Where to look for the first missing range. @default 0 */
  readonly offset?: number;
  /** Bytes to copy at most, rounded up to the grain. */
  readonly length: number;
  readonly signal?: AbortSignal;
}

export interface StepResult {
  /** The first byte that was not examined: where the next step goes on. */
  readonly next: number;
  /** Bytes that were missing and are local now. */
  readonly copied: number;
  /** Nothing is missing anywhere, and the link is broken. */
  readonly done: boolean;
}

/** Bytes of one request. */
const CHUNK = 2 ** 20;

/**
 * One increment: copies up to `length` bytes from the first missing range at or after `offset`. What it copied survives
 * the death of the process when it returns. The step after which nothing is missing anywhere finishes the disk.
 *
 * When nothing is missing at or after `offset` and something before it, `next` points there: a loop over steps comes to an end.
 *
 * @throws {StreamdiskError} `invalid-argument` for an offset past the end of the disk or a length that is not positive
 */
export async function stepStream(target: StreamTarget, options: StepOptions): Promise<StepResult> {
  const { offset = 0, length, signal } = options;
  refuseNonsense(target, offset, length);
  const start = offset - (offset % target.grain);
  const range = await firstMissing(target, start, signal);
  let next = target.length;
  let copied = 0;
  if (range !== undefined) {
    const most = Math.ceil(length / target.grain) * target.grain;
    const end = Math.min(range.offset + range.length, range.offset + most);
    copied = await copyUp(target, range, end, signal);
    next = end;
    await target.checkpoint();
  }
  const left = (await firstMissing(target, 0, signal))?.offset;
  signal?.throwIfAborted();
  if (left === undefined) await target.finish();
  else if (next === target.length) next = left;
  return { next, copied, done: left === undefined };
}

function refuseNonsense(target: StreamTarget, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > target.length) {
    const message = `A step cannot begin at ${offset}: '${target.name}' has ${target.length} bytes`;
    throw new StreamdiskError("invalid-argument", message, { node: target.name, offset });
  }
  if (!Number.isSafeInteger(length) || length <= 0) {
    throw new StreamdiskError("invalid-argument", `A step cannot copy ${length} bytes`, { node: target.name, length });
  }
}

/** The first missing extent at or after `offset`. */
async function firstMissing(
  target: StreamTarget,
  offset: number,
  signal: AbortSignal | undefined,
): Promise<StreamExtent | undefined> {
  for await (const extent of walk(target, offset, signal)) {
    if (extent.kind === "fetch" || extent.kind === "clear") return extent;
  }
  signal?.throwIfAborted();
  return undefined;
}

async function copyUp(
  target: StreamTarget,
  { offset, kind }: StreamExtent,
  end: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  if (kind === "clear") return (await target.clear(offset, end - offset)).zero;
  const chunk = Math.max(CHUNK, target.grain);
  let copied = 0;
  for (let position = offset; position < end; position += chunk) {
    const length = Math.min(chunk, end - position);
    try {
      const { data, zero } = await target.populate(position, length, signal);
      copied += data + zero;
    } catch (error) {
      signal?.throwIfAborted();
      throw stoppedBy({ error, offset: position, length }, target, position);
    }
  }
  return copied;
}
