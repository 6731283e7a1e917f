import assert from "node:assert/strict";
import { test } from "node:test";
import { DiskModel } from "./model.ts";

const MIB = 1024 ** 2;

test("about half of the base is holes, and no two pieces are the same", () => {
  const model = new DiskModel(128, 0);
  const firsts = new Set<number>();
  for (let offset = 0; offset < model.length; offset += MIB) {
    const piece = model.basePiece(offset);
    if (piece !== undefined) firsts.add(new DataView(piece.buffer).getUint32(0));
  }
  assert(firsts.size > 40 && firsts.size < 88, `${firsts.size} pieces of 128 hold data`);
});

test("a piece is the base with the writes over it, the later ones on top", () => {
  const model = new DiskModel(4, 60);
  const whole = new Uint8Array(model.length);
  for (let offset = 0; offset < model.length; offset += MIB) {
    whole.set(model.basePiece(offset) ?? new Uint8Array(MIB), offset);
  }
  for (const write of model.writes) {
    assert(write.offset + write.length <= model.length && write.offset % 512 === 0 && write.length % 512 === 0);
    whole.set(model.data(write), write.offset);
  }
  for (let offset = 0; offset < model.length; offset += MIB) {
    assert.equal(
      Buffer.compare(model.piece(offset, 60), whole.subarray(offset, offset + MIB)),
      0,
      `piece at ${offset}`,
    );
  }
});

test("the same seed makes the same disk, another one another", () => {
  const same = [new DiskModel(2, 5), new DiskModel(2, 5)].map((model) =>
    Buffer.from(model.piece(0, 5)).toString("hex", 0, 64),
  );
  assert.equal(same[0], same[1]);
  assert.notDeepEqual(new DiskModel(2, 5, 2).writes, new DiskModel(2, 5).writes);
});
