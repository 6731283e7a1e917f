import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { MemoryOverlay } from "../../test/support/memory-overlay.ts";
import { StreamdiskError } from "../errors/index.ts";
import { overlayTarget, stepStream } from "./index.ts";

const MIB = 2 ** 20;
const K64 = 65536;

function disk(length = 4 * MIB): { overlay: MemoryOverlay; backing: MemoryNode } {
  const backing = MemoryNode.of(Buffer.alloc(length, 1), { name: "base" });
  return { overlay: new MemoryOverlay({ length, backing }), backing };
}

test("each step goes on where the last one ended; the last one drops the link", async () => {
  const { overlay } = disk();
  const target = overlayTarget(overlay);
  const steps = [];
  for (let offset = 0, done = false; !done; ) {
    const step = await stepStream(target, { offset, length: 1.5 * MIB });
    steps.push(step);
    ({ next: offset, done } = step);
  }
  assert.deepEqual(steps, [
    { next: 1.5 * MIB, copied: 1.5 * MIB, done: false },
    { next: 3 * MIB, copied: 1.5 * MIB, done: false },
    { next: 4 * MIB, copied: MIB, done: true },
  ]);
  assert.equal(overlay.calls.at(-1), "link nothing");
  assert.equal(overlay.backing, undefined);
});

test("without an offset allocation is the cursor", async () => {
  const { overlay } = disk();
  await overlay.write(0, Buffer.alloc(K64, 2));
  const target = overlayTarget(overlay);
  assert.deepEqual(await stepStream(target, { length: K64 }), { next: 2 * K64, copied: K64, done: false });
  assert.deepEqual(await stepStream(target, { length: K64 }), { next: 3 * K64, copied: K64, done: false });
  assert.equal(overlay.calls.at(-1), "checkpoint");
});

test("a length is rounded up to the grain, and a range ends at what is local", async () => {
  const { overlay } = disk();
  await overlay.write(2 * K64, Buffer.alloc(K64, 2));
  const target = overlayTarget(overlay);
  assert.deepEqual(await stepStream(target, { length: 1 }), { next: K64, copied: K64, done: false });
  assert.deepEqual(await stepStream(target, { length: MIB }), { next: 2 * K64, copied: K64, done: false });
  assert.deepEqual(await stepStream(target, { offset: 2 * K64 + 5, length: K64 }), {
    next: 4 * K64,
    copied: K64,
    done: false,
  });
});

test("done only when nothing is missing anywhere; next turns back to what is", async () => {
  const { overlay } = disk(4 * K64);
  const target = overlayTarget(overlay);
  assert.deepEqual(await stepStream(target, { offset: 2 * K64, length: MIB }), {
    next: 0,
    copied: 2 * K64,
    done: false,
  });
  assert.deepEqual(await stepStream(target, { offset: 3 * K64, length: MIB }), { next: 0, copied: 0, done: false });
  assert.deepEqual(await stepStream(target, { length: MIB }), { next: 2 * K64, copied: 2 * K64, done: true });
});

test("a disk with nothing missing is done in one step", async () => {
  const overlay = new MemoryOverlay({ length: MIB, backing: new MemoryNode(MIB) });
  assert.deepEqual(await stepStream(overlayTarget(overlay), { length: 1 }), { next: MIB, copied: 0, done: true });
  assert.deepEqual(overlay.calls, ["link nothing"]);
});

test("an error says where, and that nothing is lost", async () => {
  const { overlay, backing } = disk();
  backing.read = async () => {
    throw new StreamdiskError("source-lost", "The source is gone");
  };
  await assert.rejects(stepStream(overlayTarget(overlay), { length: MIB }), {
    code: "source-lost",
    message: /^The source is gone\. The stream stopped at 0 of 4194304 bytes of 'overlay'\. What was fetched stays/,
  });
});

test("refuses an offset past the end and a length of nothing", async () => {
  const target = overlayTarget(disk().overlay);
  await assert.rejects(stepStream(target, { offset: 5 * MIB, length: 1 }), { code: "invalid-argument" });
  await assert.rejects(stepStream(target, { offset: -1, length: 1 }), { code: "invalid-argument" });
  await assert.rejects(stepStream(target, { length: 0 }), { code: "invalid-argument" });
});
