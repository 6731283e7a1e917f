import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { createQcow2 } from "./create.ts";
import { readHeader } from "./header-file.ts";

const MIB = 2 ** 20;

test("options that cannot be are refused by name, before anything is written", async () => {
  const refused = async (options: Record<string, string>, message: RegExp, size = MIB) => {
    const file = new MemoryNode(0, { name: "disk" });
    await assert.rejects(createQcow2(file, { size, options }), { code: "invalid-argument", message });
    assert.equal(file.length, 0);
  };
  await refused({ cluster_sise: "4K" }, /'cluster_sise'.*cluster_size, compat, compression_type/);
  await refused({ preallocation: "full" }, /'preallocation'.*'full'.*off/);
  await refused({ data_file: "x" }, /Unknown option 'data_file'/);
  await refused({ cluster_size: "3K" }, /'cluster_size'.*3072.*power of two from 512 to 2097152/);
  await refused({ cluster_size: "4M" }, /'cluster_size'/);
  await refused({ cluster_size: "0" }, /'cluster_size'/);
  await refused({ refcount_bits: "24" }, /'refcount_bits'.*power of two from 1 to 64/);
  await refused({ refcount_bits: "128" }, /'refcount_bits'/);
  await refused({ compat: "1.0" }, /'compat'.*1\.1/);
  await refused({ extended_l2: "on", cluster_size: "8K" }, /with extended_l2 it is at least 16384/);
  for (const option of ["lazy_refcounts", "extended_l2"]) {
    await refused({ compat: "v2", [option]: "on" }, new RegExp(`'${option}'.*compat=1.1`));
  }
  await refused({ compat: "v2", refcount_bits: "8" }, /'refcount_bits'.*compat=1.1/);
  await refused({ compat: "v2", compression_type: "zstd" }, /'compression_type'.*compat=1.1/);
  await refused({ cluster_size: "512" }, /at most 137438953472 bytes; use larger clusters/, 2 ** 37 + 1);
  await refused({}, /cannot have a size of -1/, -1);
});

test("the largest L1 table fits", async () => {
  const file = new MemoryNode(0, { name: "disk" });
  await createQcow2(file, { size: 2 ** 37, options: { cluster_size: "512", refcount_bits: "64" } });
  const { l1, refcountTable } = await readHeader(file);
  assert.equal(l1.entries * 8, 32 * MIB);
  assert.ok(refcountTable.clusters > 1);
  assert.ok(file.allocated < 2 * MIB);
});

test("a name that does not fit is refused, a file that is not empty too", async () => {
  const backing = { reference: "x".repeat(400), format: "raw" };
  const small = new MemoryNode(0, { name: "disk" });
  await assert.rejects(createQcow2(small, { size: MIB, backing, options: { cluster_size: "512" } }), {
    code: "unsupported",
    message: /first cluster \(512 bytes\) has no room for the name of a backing file of 400 bytes/,
  });
  assert.equal(small.length, 0);
  await assert.rejects(createQcow2(MemoryNode.of(new Uint8Array(1)), { size: MIB }), { code: "exists" });
});

test("over what a device held before", async () => {
  const device = MemoryNode.of(new Uint8Array(MIB).fill(0xff), { grows: false });
  await createQcow2(device, { size: MIB });
  const header = await readHeader(device);
  const l1 = new Uint8Array(65536);
  await device.read(header.l1.offset, l1);
  assert.ok(l1.every((byte) => byte === 0));
  assert.equal(header.backing, undefined);
});
