import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { isOverlay } from "../block/index.ts";
import { createFormat, FORMAT_NAMES, openFormat, probeFormat } from "./index.ts";

/** A file that can be opened again after its node was closed. */
class KeptNode extends MemoryNode {
  override async close(): Promise<void> {}
}

for (const format of FORMAT_NAMES) {
  test(`${format}: made, told apart, opened, written, opened again`, async () => {
    const file = new KeptNode(0, { name: "x.img" });
    assert.equal((await createFormat(format, file, { size: 1_000_001 })).size, 1_000_448);
    assert.equal(await probeFormat(file), format);
    {
      await using node = await openFormat(format, file, { readOnly: false });
      assert.equal(node.format, format);
      assert.equal(node.length, 1_000_448);
      assert.equal(isOverlay(node), format !== "raw");
      await node.write(999_999, Buffer.from("here"));
    }
    await using node = await openFormat(format, file, { readOnly: true });
    const seen = Buffer.alloc(6);
    await node.read(999_998, seen);
    assert.equal(seen.toString("latin1"), "\0here\0");
    assert.equal(node.describe()["dirty-flag"], false);
  });
}

test("a format that is given is not second-guessed", async () => {
  const file = new KeptNode();
  await createFormat("qed", file, { size: 512 });
  await using node = await openFormat("raw", file, { readOnly: true });
  assert.equal(node.length, file.length);
  await assert.rejects(openFormat("qed", new MemoryNode(4096), { readOnly: true }), { code: "invalid-image" });
});
