/** Disks of one source share a thread, which ends with the last of them: one that is opened in that moment has another. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { serveDisk } from "../../src/engine/index.ts";
import { temporaryDirectory } from "../support/cli.ts";

test("a disk is opened while the last one of its source is closed", async (t) => {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  writeFileSync(base, Buffer.alloc(65536, 1));
  const below = { backing: base, backingFormat: "raw" } as const;
  for (let round = 0; round < 12; round++) {
    const disk = await serveDisk({ image: join(directory, `vm-${round}.qcow2`), create: true, ...below });
    const closing = disk.close();
    // Images that are not there come to a thread soonest: all of them hear that, and not that a thread has ended.
    const opening: Promise<void>[] = [];
    for (let i = 0; i < 12; i++) {
      opening.push(
        assert.rejects(serveDisk({ image: join(directory, "none.qcow2"), ...below }), { code: "not-found" }),
      );
      await sleep(2);
    }
    await Promise.all([closing, ...opening]);
  }
});
