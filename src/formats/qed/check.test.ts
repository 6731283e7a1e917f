import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import type { MappedFormatNode } from "../format.ts";
import { createQed } from "./create.ts";
import { readQedHeader } from "./header-file.ts";
import { openQed } from "./node.ts";

const CLUSTER = 4096;
const CLUSTERS = 8;

/** A disk whose clusters were written in order, and some of them lost since: their entries say "missing". */
async function leaky(lost: readonly number[]): Promise<MemoryNode> {
  const file = new MemoryNode(0, { name: "x.qed" });
  // It is opened again and again.
  file.close = async () => {};
  await createQed(file, { size: CLUSTERS * CLUSTER, options: { cluster_size: "4K", table_size: "2" } });
  {
    await using node = await openQed(file, { readOnly: false });
    for (let index = 0; index < CLUSTERS; index++) await node.write(index * CLUSTER, cluster(index + 1));
  }
  const { header } = await readQedHeader(file);
  const l1 = new Uint8Array(8);
  await file.read(header.l1Offset, l1);
  const table = Number(new DataView(l1.buffer).getBigUint64(0, true));
  for (const index of lost) await file.write(table + index * 8, new Uint8Array(8));
  return file;
}

function cluster(value: number): Uint8Array {
  return new Uint8Array(CLUSTER).fill(value);
}

async function values(node: MappedFormatNode): Promise<number[]> {
  const bytes = new Uint8Array(CLUSTERS * CLUSTER);
  await node.read(0, bytes);
  return Array.from({ length: CLUSTERS }, (_, index) => bytes[index * CLUSTER] as number);
}

// The hole beside the last cluster was the one that went wrong: the file was not cut, and memory kept the old place.
for (const lost of [[6], [7], [0], [0, 6], [1, 2, 3], [5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7], [2, 4, 6]]) {
  test(`leaks at ${lost.join(", ")} are given back, and what is written then is found again`, async () => {
    const file = await leaky(lost);
    const before = file.length;
    const expected = Array.from({ length: CLUSTERS }, (_, index) => (lost.includes(index) ? 0 : index + 1));
    {
      await using node = await openQed(file, { readOnly: false });
      assert.deepEqual(await values(node), expected);
      const result = await node.check({ repair: "leaks" });
      assert.equal(result["leaks-fixed"], lost.length);
      assert.equal(result.leaks, 0);
      assert.equal(file.length, before - lost.length * CLUSTER);
      assert.deepEqual(await values(node), expected);
      // In place, and into new clusters.
      for (let index = 0; index < CLUSTERS; index++) await node.write(index * CLUSTER, cluster(0x40 + index));
    }
    await using again = await openQed(file, { readOnly: false });
    assert.deepEqual(
      await values(again),
      Array.from({ length: CLUSTERS }, (_, index) => 0x40 + index),
    );
    assert.equal((await again.check()).leaks, 0);
  });
}

test("of a sparse file of petabytes a few leaks are named, and all are counted", async () => {
  const file = await leaky([]);
  const before = file.length;
  await file.resize(2 ** 50);
  await using node = await openQed(file, { readOnly: true, forCheck: true });
  const { leaks, findings } = await node.check();
  assert.equal(leaks, (2 ** 50 - before) / CLUSTER);
  assert.ok(findings.length > 0 && findings.length <= 100);
});
