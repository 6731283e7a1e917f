/**
 * A log of acknowledged mappings must not outlive a visit of another program (ADR 1), also when that program was killed in turn and left
 * a mark of its own.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { StreamdiskError } from "../../src/errors/index.ts";
import { type FormatName, openFormat } from "../../src/formats/index.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { qemuImg } from "../support/qemu.ts";

const MIB = 2 ** 20;

/** Writes with qemu-io, flushes, and kills it. */
async function writeAndDie(path: string, format: FormatName): Promise<void> {
  const child = spawn("qemu-io", ["-f", format, "-c", "write -P 0x51 0 1M", "-c", "flush", "-c", "sleep 60000", path]);
  const exit = once(child, "exit");
  while (!(await isWritten(path, format))) assert.equal(child.exitCode, null);
  child.kill("SIGKILL");
  await exit;
}

/** Whether the image says that QEMU's write is there. */
async function isWritten(path: string, format: FormatName): Promise<boolean> {
  await new Promise((resolve) => setTimeout(resolve, 20));
  try {
    await using node = await openFormat(format, await MemoryNode.load(path), { readOnly: true });
    const last = new Uint8Array(512);
    await node.read(MIB - 512, last);
    return last.every((byte) => byte === 0x51);
  } catch (error) {
    // It is being written while we look: half of a change may be there.
    if (error instanceof StreamdiskError) return false;
    throw error;
  }
}

for (const [format, options] of [
  ["qed", []],
  ["qcow2", ["-o", "lazy_refcounts=on"]],
] as const) {
  test(`${format}: what QEMU wrote since and flushed stays, the log goes`, async () => {
    const directory = await mkdtemp(join(tmpdir(), "streamdisk-stale-"));
    try {
      const path = join(directory, `disk.${format}`);
      await qemuImg("create", "-q", "-f", format, ...options, path, "8M");

      const log = new MemoryLog();
      const ours = await MemoryNode.load(path);
      const node = await openFormat(format, ours, { readOnly: false, log });
      await node.write(0, new Uint8Array(2 * MIB).fill(0xaa));
      // Killed: nothing of the mapping has reached the image, all of it is in the log.
      const killed = join(directory, `killed.${format}`);
      await ours.save(killed);
      assert.ok(log.replay().length > 0);

      await writeAndDie(killed, format);

      const after = await MemoryNode.load(killed);
      await using opened = await openFormat(format, after, { readOnly: false, log });
      const bytes = new Uint8Array(2 * MIB);
      await opened.read(0, bytes);
      assert.ok(bytes.subarray(0, MIB).every((byte) => byte === 0x51));
      assert.ok(bytes.subarray(MIB).every((byte) => byte === 0));
      assert.equal((await opened.check()).corruptions, 0);
      assert.equal(log.replay().length, 0);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
}
