import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { MemoryOverlay } from "../../../test/support/memory-overlay.ts";
import type { BlockNode, Extent } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { CONTEXT_ALLOCATION, CONTEXT_DEPTH, CONTEXT_LOCAL } from "../protocol.ts";
import { blockStatus } from "./block-status.ts";
import { CONTEXTS, type ContextName } from "./contexts.ts";

const KIB = 1024;
const GRAIN = 64 * KIB;

/** Its data lie where `filled` says, in grains; all else of it is zero. */
async function base(grains: number, filled: readonly number[]): Promise<MemoryNode> {
  const node = new MemoryNode(grains * GRAIN, { name: "base" });
  for (const grain of filled) await node.write(grain * GRAIN, new Uint8Array(GRAIN).fill(0xba));
  return node;
}

async function overlay(grains: number, backing: BlockNode, written: readonly number[], zeroed: readonly number[]) {
  const node = new MemoryOverlay({ length: grains * GRAIN, grain: GRAIN, backing });
  for (const grain of written) await node.write(grain * GRAIN, new Uint8Array(GRAIN).fill(1));
  for (const grain of zeroed) await node.writeZeroes(grain * GRAIN, GRAIN);
  return node;
}

/** Status of each grain, run by run: "0x2 3x1" is two grains of 0 and one of 3. */
async function status(
  node: BlockNode,
  context: ContextName,
  { from = 0, to = node.length / GRAIN, one = false, clock = new ManualClock() } = {},
): Promise<string> {
  const question = { node, offset: from * GRAIN, length: (to - from) * GRAIN, contexts: CONTEXTS, one };
  const runs = (await clock.runUntil(blockStatus(question, clock))).get(context);
  return runs!.map(({ length, flags }) => `${flags}x${length / GRAIN}`).join(" ");
}

test("a file is data and holes, all of it at the first level", async () => {
  const node = await base(6, [1, 2]);
  assert.equal(await status(node, CONTEXT_ALLOCATION), "3x1 0x2 3x3");
  assert.equal(await status(node, CONTEXT_DEPTH), "1x6");
  assert.equal(await status(node, CONTEXT_LOCAL), "2x1 0x2 2x3");
});

test("what an overlay lacks is what lies below", async () => {
  const node = await overlay(8, await base(8, [0, 1, 4, 5]), [1, 2], [3, 4]);
  // missing data, data, data, zero, zero, missing data, missing zero
  assert.equal(await status(node, CONTEXT_ALLOCATION), "0x3 3x2 0x1 3x2");
  assert.equal(await status(node, CONTEXT_DEPTH), "2x1 1x4 2x3");
  assert.equal(await status(node, CONTEXT_LOCAL), "1x1 0x2 2x2 1x1 2x2");
});

test("layers are counted down a chain, and the zeroes behind a short one are its own", async () => {
  const middle = await overlay(4, await base(3, [0, 2]), [1], []);
  const node = await overlay(6, middle, [5], []);
  assert.equal(await status(node, CONTEXT_DEPTH), "3x1 2x1 3x2 2x1 1x1");
  assert.equal(await status(node, CONTEXT_ALLOCATION), "0x3 3x2 0x1");
});

test("what no layer has is zero, at no level", async () => {
  const node = new MemoryOverlay({ length: 4 * GRAIN, grain: GRAIN });
  await node.write(0, new Uint8Array(GRAIN));
  assert.equal(await status(node, CONTEXT_ALLOCATION), "0x1 3x3");
  assert.equal(await status(node, CONTEXT_DEPTH), "1x1 0x3");
  assert.equal(await status(node, CONTEXT_LOCAL), "0x1 2x3");
});

test("what lies in a layer that is not open is data", async () => {
  const node = new MemoryOverlay({ length: 4 * GRAIN, grain: GRAIN });
  node.backingReference = { reference: "gone.raw", format: "raw" };
  assert.equal(await status(node, CONTEXT_ALLOCATION), "0x4");
  assert.equal(await status(node, CONTEXT_DEPTH), "2x4");
  assert.equal(await status(node, CONTEXT_LOCAL), "1x4");
});

for (const [how, extents] of [
  ["fails", () => Promise.reject(new StreamdiskError("source-lost", "gone"))],
  ["never answers", () => new Promise<Extent[]>(() => {})],
] as const) {
  test(`a source that ${how} is data`, async () => {
    const source = await base(4, [0]);
    source.extents = extents;
    const node = await overlay(4, source, [1], [2]);
    assert.equal(await status(node, CONTEXT_ALLOCATION), "0x2 3x1 0x1");
    assert.equal(await status(node, CONTEXT_DEPTH), "2x1 1x2 2x1");
    assert.equal(await status(node, CONTEXT_LOCAL), "1x1 0x1 2x1 1x1");
  });
}

test("what the exported layer can't say is an error", async () => {
  const node = await base(4, []);
  node.extents = () => Promise.reject(new StreamdiskError("io", "broken"));
  await assert.rejects(status(node, CONTEXT_ALLOCATION), { code: "io" });
});

test("one run of each context, if one is asked for, and no longer than the question", async () => {
  const node = await overlay(8, await base(8, [0, 1, 4]), [1], []);
  assert.equal(await status(node, CONTEXT_ALLOCATION, { one: true }), "0x2");
  assert.equal(await status(node, CONTEXT_DEPTH, { one: true }), "2x1");
  assert.equal(await status(node, CONTEXT_LOCAL, { from: 2, to: 4, one: true }), "2x2");
  assert.equal(await status(node, CONTEXT_ALLOCATION, { from: 3, to: 6 }), "3x1 0x1 3x1");
});

test("a reply is bounded, and begins where the question begins", async () => {
  const count = 40_000;
  const node = new MemoryNode(count * 512);
  node.extents = async (offset, length) =>
    Array.from({ length: Math.min(4096, length / 512) }, (_, index) => ({
      offset: offset + index * 512,
      length: 512,
      kind: (offset / 512 + index) % 2 === 0 ? ("data" as const) : ("zero" as const),
      depth: 0,
    }));
  const runs = (
    await blockStatus(
      { node, offset: 0, length: node.length, contexts: [CONTEXT_ALLOCATION], one: false },
      new ManualClock(),
    )
  ).get(CONTEXT_ALLOCATION)!;
  assert.ok(runs.length > 1000 && runs.length <= 8192, `${runs.length} runs`);
  assert.ok(runs.every(({ length, flags }, index) => length === 512 && flags === (index % 2 === 0 ? 0 : 3)));
});

test("a far source is asked so often and no more", async () => {
  let asked = 0;
  const source = await base(1000, []);
  source.extents = async (offset, length) => {
    asked++;
    return [{ offset, length, kind: "data", depth: 0 }];
  };
  const node = await overlay(
    1000,
    source,
    Array.from({ length: 500 }, (_, index) => index * 2),
    [],
  );
  const runs = await status(node, CONTEXT_LOCAL);
  assert.equal(asked, 64);
  assert.equal(runs.split(" ").length, 129);
});
