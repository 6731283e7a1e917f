import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { openFile } from "../../sources/index.ts";
import { createFormat, openFormat } from "../index.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-read-now-"));
after(() => rmSync(directory, { recursive: true }));

const CLUSTER = 65536;
const LENGTH = 8 * CLUSTER;

async function overlay(name: string, format: "qcow2" | "qed") {
  const path = join(directory, name);
  await using file = await openFile(path, { readOnly: false, create: true });
  await createFormat(format, file, { size: LENGTH, backing: { reference: "base", format: "raw" } });
  await file.flush();
  return path;
}

for (const format of ["qcow2", "qed"] as const) {
  test(`${format}: data and zeroes are read at once when the tables are in memory, what is missing never`, async () => {
    const path = await overlay(`a.${format}`, format);
    const base = MemoryNode.of(new Uint8Array(LENGTH).fill(0xba), { readOnly: true });
    const options = { readOnly: false, openBacking: async () => base };
    const data = new Uint8Array(2 * CLUSTER).fill(7);
    {
      await using node = await openFormat(format, await openFile(path, { readOnly: false }), options);
      await node.write(CLUSTER, data);
      await node.writeZeroes(3 * CLUSTER, CLUSTER);
    }
    await using node = await openFormat(format, await openFile(path, { readOnly: false }), options);
    const target = new Uint8Array(3 * CLUSTER);
    assert.equal(node.readNow?.(CLUSTER, target), false, "the table is not in memory yet");
    await node.read(CLUSTER, target);
    target.fill(0xee);
    assert.ok(
      Array.from({ length: 10 }, () => node.readNow?.(CLUSTER, target)).some(Boolean),
      "data and zeroes are there",
    );
    assert.deepEqual(target.subarray(0, data.length), data);
    assert.ok(target.subarray(data.length).every((byte) => byte === 0));
    for (const [offset, length] of [
      [0, 512],
      [CLUSTER - 1, 2],
      [4 * CLUSTER - 1, 2],
      [LENGTH - 1, 2],
      [-1, 1],
    ] as const) {
      assert.equal(node.readNow?.(offset, new Uint8Array(length)), false, `${length} bytes at ${offset}`);
    }
    await node.close();
    assert.equal(node.readNow?.(CLUSTER, target), false);
  });

  test(`${format}: zeroing is fast where most of it is whole clusters`, async () => {
    const path = await overlay(`b.${format}`, format);
    await using node = await openFormat(format, await openFile(path, { readOnly: false }), { readOnly: false });
    assert.equal(node.canZeroFast?.(0, LENGTH), true);
    assert.equal(node.canZeroFast?.(CLUSTER / 2, 2 * CLUSTER), true);
    assert.equal(node.canZeroFast?.(0, CLUSTER / 2), false);
    assert.equal(node.canZeroFast?.(1, CLUSTER), false);
  });
}

test("the last cluster of a file may be short: what it lacks reads as zeroes, in whatever pieces", async () => {
  const path = await overlay("short.qcow2", "qcow2");
  {
    await using node = await openFormat("qcow2", await openFile(path, { readOnly: false }), { readOnly: false });
    await node.write(0, new Uint8Array(CLUSTER).fill(7));
  }
  truncateSync(path, statSync(path).size - CLUSTER + 1000);
  await using node = await openFormat("qcow2", await openFile(path, { readOnly: true }), { readOnly: true });
  for (const [offset, length] of [
    [0, CLUSTER],
    [999, 2],
    [1000, 1],
    [CLUSTER - 1, 1],
  ] as const) {
    const bytes = new Uint8Array(length).fill(0xee);
    await node.read(offset, bytes);
    assert.deepEqual(bytes, new Uint8Array(CLUSTER).fill(7, 0, 1000).subarray(offset, offset + length));
  }
});
