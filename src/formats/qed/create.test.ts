import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import type { CreateFormatOptions } from "../format.ts";
import { createQed } from "./create.ts";
import { readQedHeader } from "./header-file.ts";

const create = (options: CreateFormatOptions, file = new MemoryNode(0, { name: "x.qed" })) => createQed(file, options);

test("sizes are rounded up to sectors", async () => {
  for (const [asked, got] of [
    [0, 0],
    [1, 512],
    [512, 512],
    [1_000_001, 1_000_448],
  ] as const) {
    const file = new MemoryNode();
    assert.equal((await create({ size: asked }, file)).size, got);
    assert.equal((await readQedHeader(file)).header.imageSize, got);
    assert.equal(file.length, 5 * 65536);
    assert.ok(file.allocated <= 65536, "the L1 table is a hole");
  }
});

test("the reference comes back as it will be read", async () => {
  for (const format of ["raw", "qcow2", undefined]) {
    const file = new MemoryNode();
    const { backing } = await create({ size: 512, backing: { reference: "base", format } }, file);
    assert.deepEqual(backing, { reference: "base", format: format === "raw" ? "raw" : undefined });
    assert.deepEqual((await readQedHeader(file)).backing, backing);
  }
});

test("options and sizes that cannot be are refused, and nothing is written", async () => {
  const cases: [CreateFormatOptions, RegExp][] = [
    [{ size: 1, options: { cluster_size: "2K" } }, /'cluster_size' for qed cannot be 2048/],
    [{ size: 1, options: { cluster_size: "128M" } }, /cannot be 134217728/],
    [{ size: 1, options: { cluster_size: "65k5" } }, /cannot be '65k5'/],
    [{ size: 1, options: { cluster_size: "" } }, /cannot be ''/],
    [{ size: 1, options: { table_size: "3" } }, /'table_size' for qed cannot be 3/],
    [{ size: 1, options: { table_size: "4G" } }, /cannot be 4294967296/],
    [
      { size: 1, options: { lazy_refcounts: "on" } },
      /Unknown option 'lazy_refcounts' for qed; it has cluster_size, table_size/,
    ],
    [{ size: -1 }, /-1/],
    [{ size: 1.5 }, /1\.5/],
    [{ size: 2 ** 53 }, /9007199254740992/],
    [{ size: 2 ** 30 + 1, options: { cluster_size: "4K", table_size: "1" } }, /address at most 1073741824 bytes/],
    [{ size: 1, backing: { reference: "a".repeat(2000), format: "raw" } }, /2000 bytes/],
  ];
  for (const [options, message] of cases) {
    const file = new MemoryNode();
    await assert.rejects(create(options, file), { code: "invalid-argument", message }, String(message));
    assert.equal(file.length, 0);
  }
});

test("a file that is not empty or cannot grow is left alone", async () => {
  await assert.rejects(create({ size: 1 }, new MemoryNode(1)), { code: "exists" });
  await assert.rejects(create({ size: 1 }, new MemoryNode(0, { grows: false })), { code: "unsupported" });
});

test("shapes that QEMU cannot open are made with a warning", async () => {
  const { warnings } = await create({ size: 512, options: { table_size: "1" } });
  assert.match(warnings.join(), /QEMU refuses .* 'x\.qed'/);
  assert.deepEqual((await create({ size: 512 })).warnings, []);
});
