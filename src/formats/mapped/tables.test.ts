import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { createFormat, openFormat } from "../index.ts";

const CLUSTER = 64 * 1024;
/** Guest bytes that a slice speaks of. */
const SPAN = (CLUSTER / 8) * CLUSTER;
/** Several times as many as stay in memory. */
const SLICES = 1000;

test("more slices than stay in memory can be asked for at once", async () => {
  const file = new MemoryNode(0, { name: "disk" });
  const backing = { reference: "base", format: "raw" };
  await createFormat("qcow2", file, { size: SLICES * SPAN, options: { cluster_size: "64K" }, backing });
  const options = { openBacking: async () => new MemoryNode(SLICES * SPAN) };
  const marked = (slice: number) => slice * SPAN + (slice % 50) * CLUSTER;
  const writer = await openFormat("qcow2", file, { readOnly: false, ...options });
  for (let slice = 0; slice < SLICES; slice++) await writer.writeZeroes(marked(slice), CLUSTER);
  await writer.flush();

  const node = await openFormat("qcow2", file, { readOnly: true, ...options });
  const kinds = await Promise.all(
    Array.from({ length: SLICES }, async (_, slice) => {
      const extents = await node.extents(marked(slice), 2 * CLUSTER);
      return extents.map(({ kind }) => kind);
    }),
  );
  for (const [slice, found] of kinds.entries()) assert.deepEqual(found, ["zero", "missing"], `slice ${slice}`);
});
