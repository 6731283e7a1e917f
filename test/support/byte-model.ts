/**
 * What a disk must hold, byte for byte, kept beside it while an image is changed from both sides. It is sparse, so that disks of
 * many GiB can be had; only `windows`, where a test writes, and what was ever written are compared.
 */
import assert from "node:assert/strict";
import { type BlockNode, layerExtents } from "../../src/block/index.ts";
import { MemoryNode } from "./memory-node.ts";

const PIECE = 1024 * 1024;
const SECTOR = 512;

export interface Range {
  readonly offset: number;
  readonly length: number;
}

export class ByteModel {
  readonly disk: MemoryNode;

  constructor(length: number) {
    this.disk = new MemoryNode(length, { grows: false });
  }

  get length(): number {
    return this.disk.length;
  }

  async read({ offset, length }: Range): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.disk.read(offset, bytes);
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.disk.write(offset, bytes);
  }

  zero({ offset, length }: Range): Promise<void> {
    return this.disk.writeZeroes(offset, length);
  }

  resize(length: number): Promise<void> {
    return this.disk.resize(length);
  }

  /** What the disk is to hold where a layer below shows: all that `below` has, cut or padded with zeroes. */
  async takeFrom(below: ByteModel): Promise<void> {
    const length = Math.min(this.length, below.length);
    for await (const { offset, length: run, kind } of layerExtents(below.disk, 0, length)) {
      if (kind === "data") await this.write(offset, await below.read({ offset, length: run }));
    }
  }

  /** A range was discarded: each sector of it may be zeroes now, or as it was. The model takes over what `node` says. */
  async discarded({ offset, length }: Range, node: BlockNode): Promise<void> {
    const before = await this.read({ offset, length });
    const now = new Uint8Array(length);
    await node.read(offset, now);
    for (let at = 0; at < length; ) {
      const to = Math.min(length, at + SECTOR - ((offset + at) % SECTOR));
      const same = Buffer.compare(now.subarray(at, to), before.subarray(at, to)) === 0;
      assert.ok(same || now.subarray(at, to).every((byte) => byte === 0), `discarded, then read at ${offset + at}`);
      at = to;
    }
    await this.write(offset, now);
  }

  /** A reader of `node` sees just this: everywhere on a small disk, in the windows and where anything lies on a large one. */
  async verify(node: BlockNode, windows: readonly Range[], what: string): Promise<void> {
    assert.equal(node.length, this.length, `${what}: length`);
    const seen = new Uint8Array(PIECE);
    for await (const { offset, length } of this.#pieces(windows)) {
      const part = seen.subarray(0, length);
      await node.read(offset, part);
      const expected = await this.read({ offset, length });
      const same = Buffer.compare(part, expected) === 0;
      // What can be read at once is the same.
      if (same && (!node.readNow?.(offset, part) || Buffer.compare(part, expected) === 0)) continue;
      const at = part.findIndex((byte, index) => byte !== expected[index]);
      assert.fail(`${what}: the byte at ${offset + at} is ${part[at]}, not ${expected[at]}`);
    }
  }

  async *#pieces(windows: readonly Range[]): AsyncGenerator<Range, void, undefined> {
    const ranges: Range[] = [];
    if (this.length <= 64 * PIECE) ranges.push({ offset: 0, length: this.length });
    else {
      for await (const { offset, length, kind } of layerExtents(this.disk)) {
        if (kind === "data") ranges.push({ offset, length });
      }
      ranges.push(...windows);
    }
    for (const { offset, length } of ranges) {
      const end = Math.min(offset + length, this.length);
      for (let at = offset; at < end; at += PIECE) yield { offset: at, length: Math.min(PIECE, end - at) };
    }
  }
}
