/** Raw images of any length have the size and the tail that QEMU sees. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createRaw } from "../../src/formats/raw/create.ts";
import { openRaw } from "../../src/formats/raw/raw.ts";
import { MemoryNode } from "../support/memory-node.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-raw-"));
after(() => rmSync(directory, { recursive: true }));
const path = join(directory, "x.raw");

const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: "utf8", stdio: "pipe" });
const virtualSize = () => JSON.parse(run("qemu-img", "info", "-f", "raw", "--output=json", path))["virtual-size"];

test("the size and the tail of files of odd length", async () => {
  for (const length of [0, 1, 511, 512, 513, 70_001]) {
    const file = MemoryNode.of(new Uint8Array(length).fill(0x55));
    await file.save(path);
    await using node = await openRaw(file, { readOnly: false });
    assert.equal(node.length, virtualSize(), `${length} bytes`);
    const seen = Buffer.alloc(node.length);
    await node.read(0, seen);
    const theirs = join(directory, "copy");
    run("qemu-img", "dd", "-f", "raw", "-O", "raw", `if=${path}`, `of=${theirs}`, "bs=1M");
    assert.deepEqual(seen, Buffer.concat([Buffer.alloc(length, 0x55), Buffer.alloc(node.length - length)]));
    const copy = await MemoryNode.load(theirs);
    const read = Buffer.alloc(copy.length);
    await copy.read(0, read);
    assert.deepEqual(read, seen, `${length} bytes`);
  }
});

test("the size of a new image", async () => {
  for (const size of [0, 1, 512, 1_000_001]) {
    const file = new MemoryNode();
    await createRaw(file, { size });
    run("qemu-img", "create", "-q", "-f", "raw", path, String(size));
    assert.equal(file.length, virtualSize());
  }
});
