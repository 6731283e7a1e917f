/**
 * Images against an array of bytes: random actions, at offsets and lengths that are aligned to nothing, several at once; what fails is
 * shrunk. At the end QEMU looks at what came out.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { temporaryDirectory } from "../support/cli.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng, sample, seed } from "../support/seed.ts";
import { action } from "./actions.ts";
import { type Beginning, cells, makeBeginning } from "./cells.ts";
import { ModelledDisk } from "./disk-model.ts";

for (const cell of sample("model", cells, 14)) {
  test(`${cell.name} (seed ${seed})`, async (t) => {
    const directory = temporaryDirectory(t);
    const beginning = await makeBeginning(cell, directory, rng(`model ${cell.name}`));
    let last: ModelledDisk | undefined;
    const run = fc.asyncProperty(
      fc.array(action, { minLength: 1, maxLength: 40, size: "max" }),
      fc.boolean(),
      fc.nat(),
      async (actions, logged, order) => {
        const disk = new ModelledDisk(beginning, rng(`model ${order}`), logged);
        await disk.open();
        for (const one of actions) await disk.act(one);
        await disk.finish();
        last = disk;
      },
    );
    await fc.assert(run, { seed: seed | 0, numRuns: pick(6, 150), endOnFailure: false });
    assert(last !== undefined);
    lookWithQemu(last, beginning, directory);
  });
}

function lookWithQemu(
  { file, content }: ModelledDisk,
  { cell, base, content: first }: Beginning,
  directory: string,
): void {
  const image = join(directory, `last.${cell.format}`);
  const raw = join(directory, "content.raw");
  writeFileSync(image, file.view());
  if (base !== undefined) writeFileSync(join(directory, "base.raw"), base);
  const { status, corruptions, leaks } = qemuCheckStatus(image, cell.format);
  assert.deepEqual([status, corruptions ?? 0], [leaks === undefined ? 0 : 3, 0]);
  qemuImg("convert", "-f", cell.format, "-O", "raw", image, raw);
  assert.equal(Buffer.compare(readFileSync(raw), content), 0, "qemu-img reads something else");
  if (cell.beginning !== "snapshot") return;
  qemuImg("convert", "-f", cell.format, "-l", "snapshot.name=first", "-O", "raw", image, raw);
  // It reads as much of a snapshot as the disk has now.
  const length = Math.min(first.length, content.length);
  const snapshot = readFileSync(raw).subarray(0, length);
  assert.equal(Buffer.compare(snapshot, first.subarray(0, length)), 0, "the snapshot was changed");
}
