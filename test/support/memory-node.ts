/**
 * A file in memory: the plainest BlockNode there is, for tests. It is sparse by pages of 64 KiB, so that a length of many TiB
 * costs nothing, and it can be written to and read from a real file for a peer to look at.
 *
 * Every call takes effect at once, before the promise is handed back; nothing is lost without a flush.
 */
import { open } from "node:fs/promises";
import type { BlockNode, Extent } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";

const PAGE = 64 * 1024;

export interface MemoryNodeOptions {
  readonly name?: string;
  readonly readOnly?: boolean;
  /** Whether a write past the end makes it longer, as with a file. @default true */
  readonly grows?: boolean;
}

export class MemoryNode implements BlockNode {
  readonly name: string;
  readonly readOnly: boolean;
  readonly grows: boolean;
  readonly backing = undefined;
  /** How often `flush` was called. */
  flushes = 0;
  #length: number;
  #closed = false;
  readonly #pages = new Map<number, Uint8Array>();

  constructor(length = 0, { name = "memory", readOnly = false, grows = true }: MemoryNodeOptions = {}) {
    this.#length = length;
    this.name = name;
    this.readOnly = readOnly;
    this.grows = grows;
  }

  /** A node that holds a copy of `bytes`. */
  static of(bytes: Uint8Array, options?: MemoryNodeOptions): MemoryNode {
    const node = new MemoryNode(bytes.length, options);
    node.#put(0, bytes);
    return node;
  }

  /** A node with the contents of a file; pages of zeroes take no memory. */
  static async load(path: string, options: MemoryNodeOptions = {}): Promise<MemoryNode> {
    await using file = await open(path);
    const node = new MemoryNode((await file.stat()).size, { name: path, ...options });
    const page = new Uint8Array(PAGE);
    for (let offset = 0; offset < node.length; ) {
      const { bytesRead } = await file.read(page, 0, PAGE, offset);
      if (bytesRead === 0) break;
      const part = page.subarray(0, bytesRead);
      if (part.some((byte) => byte !== 0)) node.#put(offset, part);
      offset += bytesRead;
    }
    return node;
  }

  /** Writes the contents to a new, sparse file. */
  async save(path: string): Promise<void> {
    await using file = await open(path, "w");
    for (const [index, page] of this.#pages) await file.write(page, 0, PAGE, index * PAGE);
    await file.truncate(this.#length);
  }

  get length(): number {
    return this.#length;
  }

  /** Bytes of memory held: what a sparse file would have allocated. */
  get allocated(): number {
    return this.#pages.size * PAGE;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#mustLie(offset, target.length, "read");
    for (const { index, start, from, to } of pieces(offset, target.length)) {
      const page = this.#pages.get(index);
      const into = target.subarray(from, to);
      if (page === undefined) into.fill(0);
      else into.set(page.subarray(start, start + into.length));
    }
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#mustChange(offset, data.length, "write");
    if (this.grows) this.#length = Math.max(this.#length, offset + data.length);
    this.#put(offset, data);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#mustChange(offset, length, "write zeroes");
    if (this.grows) this.#length = Math.max(this.#length, offset + length);
    this.#clear(offset, offset + length);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#mustChange(offset, length, "discard");
    this.#clear(offset, Math.min(offset + length, this.#length));
  }

  async flush(): Promise<void> {
    this.#mustBeOpen();
    this.flushes++;
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#mustLie(offset, length, "extents");
    const end = offset + length;
    const found: Extent[] = [];
    let position = offset;
    const add = (to: number, kind: "data" | "zero") => {
      if (to <= position) return;
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: to - last.offset };
      else found.push({ offset: position, length: to - position, kind, depth: 0 });
      position = to;
    };
    for (const index of this.#pagesIn(offset, end)) {
      add(Math.min(index * PAGE, end), "zero");
      add(Math.min((index + 1) * PAGE, end), "data");
    }
    add(end, "zero");
    return found;
  }

  async resize(length: number): Promise<void> {
    this.#mustChange(0, 0, "resize");
    if (length < this.#length) this.#clear(length, this.#length);
    this.#length = length;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #put(offset: number, data: Uint8Array): void {
    for (const { index, start, from, to } of pieces(offset, data.length)) {
      let page = this.#pages.get(index);
      if (page === undefined) {
        page = new Uint8Array(PAGE);
        this.#pages.set(index, page);
      }
      page.set(data.subarray(from, to), start);
    }
  }

  #clear(offset: number, end: number): void {
    for (const index of this.#pagesIn(offset, end)) {
      const from = Math.max(offset - index * PAGE, 0);
      const to = Math.min(end - index * PAGE, PAGE);
      if (from === 0 && to === PAGE) this.#pages.delete(index);
      else this.#pages.get(index)?.fill(0, from, to);
    }
  }

  /** Indexes of the pages that touch [offset, end), ascending; by whichever is fewer, the range's pages or ours. */
  #pagesIn(offset: number, end: number): number[] {
    if (end <= offset) return [];
    const first = Math.floor(offset / PAGE);
    const last = Math.floor((end - 1) / PAGE);
    const found: number[] = [];
    if (last - first < this.#pages.size) {
      for (let index = first; index <= last; index++) if (this.#pages.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#pages.keys()) if (index >= first && index <= last) found.push(index);
    return found.sort((a, b) => a - b);
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new StreamdiskError("shutdown", `'${this.name}' is closed`, { node: this.name });
  }

  #mustLie(offset: number, length: number, operation: string, grows = false): void {
    this.#mustBeOpen();
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (whole && (grows || offset + length <= this.#length)) return;
    throw new StreamdiskError(
      "invalid-argument",
      `Range of ${length} bytes at ${offset} lies outside '${this.name}' (${this.#length} bytes)`,
      { node: this.name, operation, offset, length },
    );
  }

  #mustChange(offset: number, length: number, operation: string): void {
    this.#mustLie(offset, length, operation, this.grows);
    if (!this.readOnly) return;
    throw new StreamdiskError("permission", `'${this.name}' is read-only`, {
      node: this.name,
      operation,
      offset,
      length,
    });
  }
}

/** A range cut at the borders of pages: bytes [from, to) of it lie at `start` of page `index`. */
function* pieces(
  offset: number,
  length: number,
): Generator<{ index: number; start: number; from: number; to: number }, void, undefined> {
  for (let from = 0; from < length; ) {
    const index = Math.floor((offset + from) / PAGE);
    const start = offset + from - index * PAGE;
    const to = Math.min(length, from + PAGE - start);
    yield { index, start, from, to };
    from = to;
  }
}
