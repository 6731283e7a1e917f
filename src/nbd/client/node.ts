/**
 * An export of an NBD server as a node.
 *
 * A server may ask for requests that begin and end at multiples of its minimum block, and for no more than its maximum at
 * a time. Reads are rounded out and trimmed; a write of part of a block reads the rest of it first, under a lock of the
 * blocks that all writes take while the minimum is not 1. An export whose size is no multiple of the minimum has a tail that the
 * protocol gives no way to reach; it is asked for as it is, up to the end of the export, which the servers that there are
 * understand.
 *
 * `base:allocation` decides what an extent is: what is said to read as zeroes is `zero`. A hole that is not said to
 * read as zeroes has contents that nobody knows, and is `data`.
 */
import {
  type BlockNode,
  type Extent,
  RangeLock,
  validateOpen,
  validateRange,
  validateWritable,
} from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, CONTEXT_ALLOCATION, CONTEXT_DEPTH, type Command, STATE } from "../protocol.ts";
import type { NbdExportInfo } from "./export-info.ts";
import type { LinkListener, NbdLink } from "./link.ts";
import { NbdRequest } from "./request.ts";
import type { StatusRuns } from "./status-runs.ts";

/** The most that one TRIM or WRITE_ZEROES covers: a server may have to write it all, within the time limit. */
const LONGEST_ERASE = 256 * 1024 * 1024;
/** The most that one BLOCK_STATUS asks for: a server may have to look at it all. */
const LONGEST_QUERY = 1024 * 1024 * 1024;
/** Zeroes written at a time to a server that has no command for it. */
const ZEROES = 1024 * 1024;

/** A run of bytes that are allocated at one depth of the server's backing chain. */
export interface AllocationRun {
  readonly offset: number;
  readonly length: number;
  /** 1 is the exported image itself, 2 the one below it...; 0 is nowhere. */
  readonly depth: number;
}

export interface NbdNodeOptions {
  readonly name: string;
  readonly readOnly: boolean;
}

/** Made by `connectNbd`. */
export class NbdNode implements BlockNode {
  readonly name: string;
  readonly readOnly: boolean;
  readonly grows = false;
  readonly backing = undefined;
  /** What the server says of the export. */
  readonly info: NbdExportInfo;
  readonly #link: NbdLink;
  readonly #blocks = new RangeLock();
  #closed: Promise<void> | undefined;

  constructor(link: NbdLink, options: NbdNodeOptions) {
    this.#link = link;
    this.info = link.info;
    this.name = options.name;
    this.readOnly = options.readOnly;
  }

  get length(): number {
    return this.info.length;
  }

  /**
   * Calls `listener` when the server is lost, with the reason, and when it is back. After an error `changed` it stays lost.
   *
   * @returns how to stop it
   */
  onLink(listener: LinkListener): () => void {
    return this.#link.onLink(listener);
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#validate("read", offset, target.length);
    if (target.length === 0) return;
    const { start, end } = this.#blocksOf(offset, target.length);
    if (start === offset && end === offset + target.length) return this.#readBlocks(offset, target, signal);
    const blocks = Buffer.allocUnsafe(end - start);
    await this.#readBlocks(start, blocks, signal);
    blocks.copy(target, 0, offset - start);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#validateChange("write", offset, data.length);
    if (data.length === 0) return;
    await this.#locked(offset, data.length, async (start, end) => {
      if (start === offset && end === offset + data.length) return this.#writeBlocks(offset, data);
      const blocks = Buffer.allocUnsafe(end - start);
      await this.#readBlocks(start, blocks);
      blocks.set(data, offset - start);
      return this.#writeBlocks(start, blocks);
    });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#validateChange("write zeroes to", offset, length);
    if (length === 0) return;
    const inner = this.#blocksWithin(offset, length);
    if (!this.info.canWriteZeroes || inner.end <= inner.start) return this.#writePlainZeroes(offset, offset + length);
    await this.#locked(inner.start, inner.end - inner.start, (start, end) =>
      this.#each(COMMAND.WRITE_ZEROES, start, end, LONGEST_ERASE),
    );
    await this.#writePlainZeroes(offset, inner.start);
    await this.#writePlainZeroes(inner.end, offset + length);
  }

  /** Does nothing where the server can't, and where the range is less than a block. */
  async discard(offset: number, length: number): Promise<void> {
    this.#validateChange("discard", offset, length);
    const { start, end } = this.#blocksWithin(offset, length);
    if (!this.info.canTrim || end <= start) return;
    await this.#locked(start, end - start, (from, to) => this.#each(COMMAND.TRIM, from, to, LONGEST_ERASE));
  }

  /**
   * @throws {StreamdiskError} `changed` when a connection has ended with writes that were answered and not flushed: they may
   * be lost, and stay in doubt until the disk is opened anew
   */
  async flush(): Promise<void> {
    validateOpen(this, "flush", this.#closed !== undefined);
    if (!this.readOnly) await this.#link.flush();
  }

  /**
   * Has the server make durable what it holds, of an export that is read-only too: others may write to what lies behind it.
   *
   * @throws {StreamdiskError} `unsupported` when the server does not offer it
   */
  async flushServer(): Promise<void> {
    validateOpen(this, "flush", this.#closed !== undefined);
    if (!this.info.canFlush) throw this.#unsupported("flush", "its server does not offer it");
    await this.#link.flush();
  }

  /**
   * Asks the server to have a range at hand; what that means is up to it.
   *
   * @param signal ends waiting; the server may go on
   * @throws {StreamdiskError} `unsupported` when the server does not offer it
   */
  async cache(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#validate("cache", offset, length);
    if (!this.info.canCache) throw this.#unsupported("cache", "its server does not offer it");
    const { start, end } = this.#blocksOf(offset, length);
    await this.#each(COMMAND.CACHE, start, end, this.info.maximumPayload, signal);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#validate("look at", offset, length);
    if (length === 0) return [];
    const runs = await this.#status(CONTEXT_ALLOCATION, offset, length);
    if (runs === undefined) return [{ offset, length, kind: "data", depth: 0 }];
    const extents: Extent[] = [];
    for (const run of trimmed(runs, offset, length)) {
      extents.push({
        offset: run.offset,
        length: run.length,
        kind: run.flags & STATE.ZERO ? "zero" : "data",
        depth: 0,
      });
    }
    return extents;
  }

  /**
   * At which depth of the server's backing chain bytes are allocated: runs that touch, from `offset` on, over a non-empty
   * prefix of the range.
   *
   * @returns undefined when the server does not tell (`qemu:allocation-depth`)
   */
  async allocationDepths(offset: number, length: number): Promise<AllocationRun[] | undefined> {
    this.#validate("look at", offset, length);
    if (length === 0) return [];
    const runs = await this.#status(CONTEXT_DEPTH, offset, length);
    return runs && Array.from(trimmed(runs, offset, length), ({ flags, ...run }) => ({ ...run, depth: flags }));
  }

  async resize(): Promise<void> {
    throw this.#unsupported("resize", "NBD has no command for it");
  }

  close(): Promise<void> {
    this.#closed ??= this.#link.close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The runs of a metadata context from the block that `offset` lies in. */
  async #status(
    context: string,
    offset: number,
    length: number,
  ): Promise<{ start: number; runs: StatusRuns } | undefined> {
    if (!this.info.contexts.includes(context)) return undefined;
    const { start, end } = this.#blocksOf(offset, length);
    const request = new NbdRequest(COMMAND.BLOCK_STATUS, start, Math.min(end - start, LONGEST_QUERY));
    await this.#answer(request);
    const runs = request.status.get(context)!;
    if (start + runs.kept > offset) return { start, runs };
    const message = `'${this.name}' answered ${request} with an extent that ends within a block of ${this.info.minimumBlock}`;
    throw new StreamdiskError("protocol", message, request.context(this.name));
  }

  async #readBlocks(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const { maximumPayload } = this.info;
    const requests: NbdRequest[] = [];
    for (let at = 0; at < target.length; at += maximumPayload) {
      const part = target.length <= maximumPayload ? target : target.subarray(at, at + maximumPayload);
      requests.push(new NbdRequest(COMMAND.READ, offset + at, part.length, { target: part }));
    }
    const abort = () => abandonAll(requests, signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      for (const request of requests) this.#link.submit(request);
      await (requests.length === 1 ? requests[0]!.answered : Promise.all(requests.map(({ answered }) => answered)));
    } catch (error) {
      // The caller may use its memory for something else as soon as it knows.
      abandonAll(requests, error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #writeBlocks(offset: number, data: Uint8Array): Promise<void> {
    const { maximumPayload } = this.info;
    const requests: NbdRequest[] = [];
    for (let at = 0; at < data.length; at += maximumPayload) {
      const part = data.subarray(at, at + maximumPayload);
      requests.push(new NbdRequest(COMMAND.WRITE, offset + at, part.length, { data: part }));
    }
    for (const request of requests) this.#link.submit(request);
    const outcomes = await Promise.allSettled(requests.map(({ answered }) => answered));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  async #writePlainZeroes(from: number, to: number): Promise<void> {
    if (to <= from) return;
    const zeroes = new Uint8Array(Math.min(ZEROES, to - from));
    for (let at = from; at < to; at += ZEROES) await this.write(at, zeroes.subarray(0, to - at));
  }

  /** One command after another over a range. */
  async #each(command: Command, from: number, to: number, most: number, signal?: AbortSignal): Promise<void> {
    for (let at = from; at < to; at += most) {
      const request = new NbdRequest(command, at, Math.min(most, to - at));
      const abort = () => request.abandon(signal?.reason);
      signal?.addEventListener("abort", abort, { once: true });
      try {
        await this.#answer(request);
      } finally {
        signal?.removeEventListener("abort", abort);
      }
    }
  }

  #answer(request: NbdRequest): Promise<void> {
    this.#link.submit(request);
    return request.answered;
  }

  /** Does `work` on the blocks around a range, alone when others could be at work on the same blocks. */
  async #locked(offset: number, length: number, work: (start: number, end: number) => Promise<void>): Promise<void> {
    const { start, end } = this.#blocksOf(offset, length);
    if (this.info.minimumBlock === 1) return work(start, end);
    const lock = await this.#blocks.acquire(start, end);
    try {
      await work(start, end);
    } finally {
      this.#blocks.release(lock);
    }
  }

  /** The blocks that a range touches. */
  #blocksOf(offset: number, length: number): { start: number; end: number } {
    const { minimumBlock } = this.info;
    if (minimumBlock === 1) return { start: offset, end: offset + length };
    const end = Math.ceil((offset + length) / minimumBlock) * minimumBlock;
    return { start: offset - (offset % minimumBlock), end: Math.min(end, this.length) };
  }

  /** The blocks that lie within a range; none when `end` is not beyond `start`. */
  #blocksWithin(offset: number, length: number): { start: number; end: number } {
    const { minimumBlock } = this.info;
    const end = offset + length;
    return {
      start: Math.ceil(offset / minimumBlock) * minimumBlock,
      end: end === this.length ? end : end - (end % minimumBlock),
    };
  }

  #validate(operation: string, offset: number, length: number): void {
    validateOpen(this, operation, this.#closed !== undefined);
    validateRange(this, operation, offset, length);
  }

  #validateChange(operation: string, offset: number, length: number): void {
    this.#validate(operation, offset, length);
    validateWritable(this, operation);
  }

  #unsupported(operation: string, why: string): StreamdiskError {
    const message = `Could not ${operation} '${this.name}': ${why}`;
    return new StreamdiskError("unsupported", message, { node: this.name, operation });
  }
}

function abandonAll(requests: readonly NbdRequest[], reason: unknown): void {
  for (const request of requests) {
    request.abandon(reason);
    // Whoever waits, waits for all of them.
    request.answered.catch(() => {});
  }
}

/** Runs cut to a range that begins in the first of them. */
function* trimmed(
  { start, runs }: { start: number; runs: StatusRuns },
  offset: number,
  length: number,
): Generator<{ offset: number; length: number; flags: number }, void, undefined> {
  let at = start;
  for (const [index, run] of runs.lengths.entries()) {
    const from = Math.max(at, offset);
    const to = Math.min(at + run, offset + length);
    at += run;
    if (from < to) yield { offset: from, length: to - from, flags: runs.flags[index]! };
  }
}
