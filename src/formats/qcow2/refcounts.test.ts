import assert from "node:assert/strict";
import { test } from "node:test";
import { between, type Random } from "../../../test/support/draw.ts";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { pick, rng, seed } from "../../../test/support/seed.ts";
import type { MetadataWrite } from "../mapped/allocator.ts";
import { HostMap } from "../mapped/host-map.ts";
import { viewOf } from "./big-endian.ts";
import { Refcounts } from "./refcounts.ts";

const CLUSTER = 512;
/** Counts of 64 bits: a block has 64, a table of one cluster 64 blocks. */
const PER_BLOCK = 64;
const BLOCK = CLUSTER;
const TABLE = 2 * CLUSTER;
/** Where the header says where the table is, and of how many clusters. */
const HEADER_FIELDS = 48;

/** An image of a header, a refcount block and a refcount table. */
function emptyImage(): { file: MemoryNode; disk: Uint8Array; refcounts: Refcounts } {
  const disk = new Uint8Array(16 * 2 ** 20);
  const view = viewOf(disk);
  view.setBigUint64(HEADER_FIELDS, BigInt(TABLE));
  view.setUint32(HEADER_FIELDS + 8, 1);
  for (let cluster = 0; cluster < 3; cluster++) view.setBigUint64(BLOCK + cluster * 8, 1n);
  view.setBigUint64(TABLE, BigInt(BLOCK));
  const file = MemoryNode.of(disk.subarray(0, 3 * CLUSTER));
  const refcounts = new Refcounts({
    file,
    clusterSize: CLUSTER,
    refcountBits: 64,
    hostMap: new HostMap(CLUSTER, new Float64Array(), CLUSTER),
    table: disk.slice(TABLE, TABLE + CLUSTER),
    tableOffset: TABLE,
    onTableMoved: () => {},
  });
  return { file, disk, refcounts };
}

/** What a crash would leave: every block that the table points to counts itself, and so does the table. */
function assertWhole(disk: Uint8Array): void {
  const view = viewOf(disk);
  const table = Number(view.getBigUint64(HEADER_FIELDS));
  const length = view.getUint32(HEADER_FIELDS + 8) * CLUSTER;
  const count = (cluster: number): bigint => {
    const region = Math.floor(cluster / PER_BLOCK);
    const host = region * 8 < length ? Number(view.getBigUint64(table + region * 8)) : 0;
    return host === 0 ? 0n : view.getBigUint64(host + (cluster % PER_BLOCK) * 8);
  };
  for (let at = 0; at < length; at += CLUSTER)
    assert.equal(count((table + at) / CLUSTER), 1n, `table at ${table + at}`);
  for (let region = 0; region * 8 < length; region++) {
    const host = Number(view.getBigUint64(table + region * 8));
    if (host !== 0) assert.equal(count(host / CLUSTER), 1n, `block of region ${region} at ${host}`);
  }
}

test(`whenever a checkpoint is taken, what it leaves counts its own blocks and its table (seed ${seed})`, async () => {
  for (let image = 0; image < pick(5, 100); image++) await fill(rng(`refcounts ${image}`));
});

async function fill(random: Random): Promise<void> {
  const { file, disk, refcounts } = emptyImage();
  let going = true;
  const data = new Set<number>();
  const write = async (writes: readonly MetadataWrite[]) => {
    for (const { offset, bytes } of writes) {
      assert.ok(!data.has(Math.floor(offset / CLUSTER)), `metadata is written over data at ${offset}`);
      disk.set(bytes, offset);
      await file.write(offset, bytes);
    }
  };
  const checkpoints = (async () => {
    while (going) {
      for (let turns = between(random, 0, 9); turns > 0; turns--) await Promise.resolve();
      const { blocks, roots, done } = refcounts.snapshot();
      await write(blocks);
      assertWhole(disk);
      await write(roots);
      assertWhole(disk);
      done();
    }
  })();
  for (let allocation = 0; allocation < 300; allocation++) {
    const { host, count } = await refcounts.allocate(1, 1 + (allocation % 90));
    for (let at = 0; at < count; at++) {
      assert.ok(!data.has(host / CLUSTER + at));
      data.add(host / CLUSTER + at);
    }
  }
  going = false;
  await checkpoints;
  assert.ok(refcounts.table.length > CLUSTER, "the table has grown");
}
