import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { createRaw } from "./create.ts";
import { openRaw } from "./raw.ts";

const filled = (length: number, options = {}) =>
  MemoryNode.of(new Uint8Array(length).fill(7), { name: "x.raw", ...options });

test("a disk ends with a whole sector, and what the file lacks of it reads as zeroes", async () => {
  const file = filled(1000);
  await using node = await openRaw(file, { readOnly: false });
  assert.equal(node.length, 1024);
  const seen = new Uint8Array(1024).fill(9);
  await node.read(0, seen);
  assert.ok(seen.subarray(0, 1000).every((b) => b === 7));
  assert.ok(seen.subarray(1000).every((b) => b === 0));
  await node.read(1010, seen.subarray(0, 14).fill(9));
  assert.ok(seen.subarray(0, 14).every((b) => b === 0));
  await assert.rejects(node.read(1024, new Uint8Array(1)), {
    code: "invalid-argument",
    message: /1 bytes at 1024 of 'x\.raw'/,
  });
  assert.equal(file.length, 1000, "reading changes nothing");

  await node.writeZeroes(990, 34);
  await node.discard(1000, 24);
  assert.equal(file.length, 1000, "zeroes past the end are there already");
  await node.write(1020, Uint8Array.of(1, 2, 3, 4));
  assert.equal(file.length, 1024);
  assert.equal(node.length, 1024);
  await node.read(980, seen.subarray(0, 44));
  assert.deepEqual([...seen.subarray(0, 44)], [...Array(10).fill(7), ...Array(30).fill(0), 1, 2, 3, 4]);
});

test("what cannot grow to a whole sector ends where it ends", async () => {
  await using writable = await openRaw(filled(1000, { grows: false }), { readOnly: false });
  assert.equal(writable.length, 1000);
  await using readable = await openRaw(filled(1000, { grows: false }), { readOnly: true });
  assert.equal(readable.length, 1024);
});

test("extents are the file's, with their place in it", async () => {
  const file = new MemoryNode(3 * 65536 + 100);
  await file.write(65536, Uint8Array.of(1));
  await using node = await openRaw(file, { readOnly: true });
  assert.deepEqual(await node.extents(0, node.length), [
    { offset: 0, length: 65536, kind: "zero", depth: 0, hostOffset: 0 },
    { offset: 65536, length: 65536, kind: "data", depth: 0, hostOffset: 65536 },
    { offset: 131072, length: 65636, kind: "zero", depth: 0, hostOffset: 131072 },
    { offset: 196708, length: 412, kind: "zero", depth: 0, hostOffset: 196708 },
  ]);
  assert.deepEqual(await node.extents(196800, 10), [
    { offset: 196800, length: 10, kind: "zero", depth: 0, hostOffset: 196800 },
  ]);
});

test("the length is that of the opening, until resize", async () => {
  const file = filled(512);
  await using node = await openRaw(file, { readOnly: false });
  await file.resize(4096);
  assert.equal(node.length, 512);
  await node.resize(1025);
  assert.equal(file.length, 1025);
  assert.equal(node.length, 1536);
});

test("read-only is kept", async () => {
  for (const [fileIs, asked] of [
    [true, false],
    [false, true],
  ] as const) {
    await using node = await openRaw(filled(512, { readOnly: fileIs }), { readOnly: asked });
    assert.ok(node.readOnly);
    const changes = [node.write(0, new Uint8Array(1)), node.writeZeroes(0, 1), node.discard(0, 1), node.resize(0)];
    for (const change of changes) await assert.rejects(change, { code: "permission", message: /read-only/ });
    await node.flush();
  }
});

test("closing closes the file, once", async () => {
  const file = filled(512);
  const node = await openRaw(file, { readOnly: false });
  await Promise.all([node.close(), node.close()]);
  await assert.rejects(node.read(0, new Uint8Array(1)), { code: "shutdown" });
  await assert.rejects(file.flush(), { code: "shutdown" });
});

test("there is nothing to check", async () => {
  await using node = await openRaw(filled(512), { readOnly: true });
  await assert.rejects(node.check(), { code: "unsupported", message: /no metadata to check/ });
  assert.deepEqual(node.describe(), { "dirty-flag": false });
});

test("creation", async () => {
  const file = new MemoryNode();
  assert.deepEqual(await createRaw(file, { size: 1_000_001 }), { size: 1_000_448, backing: undefined, warnings: [] });
  assert.equal(file.length, 1_000_448);
  await createRaw(new MemoryNode(), { size: 1, options: { preallocation: "off" } });
  assert.equal((await createRaw(new MemoryNode(4096, { grows: false }), { size: 512 })).size, 4096);

  const fails = (options: Parameters<typeof createRaw>[1], onto = new MemoryNode()) => createRaw(onto, options);
  await assert.rejects(fails({ size: 1, backing: { reference: "b.raw", format: "raw" } }), {
    code: "invalid-argument",
    message: /cannot have the backing file 'b\.raw'/,
  });
  await assert.rejects(fails({ size: 1, options: { preallocation: "full" } }), {
    code: "invalid-argument",
    message: /'full'/,
  });
  await assert.rejects(fails({ size: 1, options: { cluster_size: "4K" } }), {
    code: "invalid-argument",
    message: /'cluster_size'/,
  });
  await assert.rejects(fails({ size: 1 }, filled(1)), { code: "exists" });
  await assert.rejects(fails({ size: 8192 }, new MemoryNode(4096, { grows: false })), { code: "no-space" });
});
