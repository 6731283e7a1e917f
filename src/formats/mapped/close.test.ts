import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import { openFile } from "../../sources/index.ts";
import { createFormat, openFormat } from "../index.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-close-"));
after(() => rmSync(directory, { recursive: true }));

const CLUSTER = 65536;
const LENGTH = 8 * CLUSTER;

/** A base whose reads wait until they are let go. */
class GatedNode extends MemoryNode {
  readonly begun = Promise.withResolvers<void>();
  readonly gate = Promise.withResolvers<void>();

  override async read(offset: number, target: Uint8Array): Promise<void> {
    this.begun.resolve();
    await this.gate.promise;
    await super.read(offset, target);
  }
}

for (const format of ["qcow2", "qed"] as const) {
  test(`${format}: clusters that a read still held when the image was closed are given back when it is opened next`, async () => {
    const path = join(directory, `a.${format}`);
    {
      await using file = await openFile(path, { readOnly: false, create: true });
      await createFormat(format, file, { size: LENGTH, backing: { reference: "base", format: "raw" } });
      await file.flush();
    }
    const open = async (base: MemoryNode) =>
      openFormat(format, await openFile(path, { readOnly: false }), { readOnly: false, openBacking: async () => base });
    {
      const base = new GatedNode(LENGTH);
      const node = await open(base);
      await node.write(0, new Uint8Array(CLUSTER).fill(1));
      await node.write(2 * CLUSTER, new Uint8Array(CLUSTER).fill(2));
      const reading = node.read(0, new Uint8Array(2 * CLUSTER));
      await base.begun.promise;
      await node.writeZeroes(0, CLUSTER);
      await node.discard(2 * CLUSTER, CLUSTER);
      await node.flush();
      await node.close();
      base.gate.resolve();
      await reading.catch(() => {});
    }
    await using node = await open(new MemoryNode(LENGTH));
    await node.write(7 * CLUSTER, new Uint8Array(1).fill(1));
    await node.flush();
    const { leaks, corruptions } = await node.check();
    assert.deepEqual({ leaks, corruptions }, { leaks: 0, corruptions: 0 });
  });
}
