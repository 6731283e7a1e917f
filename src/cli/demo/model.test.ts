import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { firstBlock } from "./guest-program.ts";
import { BLOCK, DiskModel, LOOK_BYTES, written } from "./model.ts";

const MIB = 1024 ** 2;
const MEBIBYTES = 48;

function whole(model: DiskModel, first: Uint8Array, beats: number, looks: number): Buffer {
  const pieces = Array.from({ length: MEBIBYTES }, (_, index) => model.piece(index * MIB, first, { beats, looks }));
  return Buffer.concat(pieces);
}

test("about half of the base is holes, and no two pieces are the same", () => {
  const model = new DiskModel(128);
  const firsts = new Set<number>();
  for (let offset = 0; offset < model.length; offset += MIB) {
    const piece = model.basePiece(offset);
    if (piece !== undefined) firsts.add(new DataView(piece.buffer).getUint32(0));
  }
  assert(firsts.size > 40 && firsts.size < 88, `${firsts.size} pieces of 128 hold data`);
});

test("a disk is the base with what the guest has done over it, each where nothing else is done", () => {
  const model = new DiskModel(MEBIBYTES);
  const first = firstBlock(model);
  const before = whole(model, first, 0, 0);
  const [beats, looks] = [300, 200];
  const after = whole(model, first, beats, looks);
  const expected = Buffer.from(before);
  for (let beat = 1; beat <= beats; beat++) {
    assert(model.beatBlock(beat) >= model.workingSet && model.beatBlock(beat) * BLOCK < model.length);
    written(`beat ${beat}`, BLOCK).copy(expected, model.beatBlock(beat) * BLOCK);
  }
  const places = new Set<number>();
  model.looks.slice(0, looks).forEach(({ block, isWrite }, index) => {
    assert(block > 0 && block < model.workingSet);
    places.add(block);
    if (isWrite) written(`look ${index + 1}`, LOOK_BYTES).copy(expected, block * BLOCK);
  });
  assert.equal(places.size, looks);
  assert(expected.equals(after));
  assert(!expected.equals(before));
});

test("the guest knows the sums of what it reads", () => {
  const model = new DiskModel(MEBIBYTES);
  const base = whole(model, firstBlock(model), 0, 0);
  const reads = model.looks.filter(({ isWrite }) => !isWrite).slice(0, 40);
  for (const { block } of reads) {
    const read = base.subarray(block * BLOCK, (block + 1) * BLOCK);
    assert.equal(model.sum(block), createHash("md5").update(read).digest("hex"));
  }
});

test("the same seed makes the same disk, another one another", () => {
  const hex = (model: DiskModel): string => Buffer.from(model.piece(0, Buffer.alloc(0), NOTHING)).toString("hex");
  assert.equal(hex(new DiskModel(20)), hex(new DiskModel(20)));
  assert.notDeepEqual(new DiskModel(20, 2).looks, new DiskModel(20).looks);
});

const NOTHING = { beats: 0, looks: 0 };
