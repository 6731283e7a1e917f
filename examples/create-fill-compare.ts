/** Makes a base and an overlay, writes to both as a guest would, fills the overlay and compares it with a copy. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkImage, compareImages, convertImage, createImage, openImage, streamImage } from "streamdisk";

const MIB = 2 ** 20;
const directory = await mkdtemp(join(tmpdir(), "streamdisk-example-"));
try {
  const [base, overlay, copy] = ["debian.qcow2", "vm1.qcow2", "copy.raw"].map((name) => join(directory, name));
  assert.ok(base && overlay && copy);

  await createImage(base, { format: "qcow2", size: 64 * MIB });
  {
    await using image = await openImage(base);
    await image.node.write(0, Buffer.alloc(8 * MIB, "system"));
  }

  await createImage(overlay, { format: "qcow2", backing: "debian.qcow2", backingFormat: "qcow2" });
  {
    await using image = await openImage(overlay);
    await image.node.write(1_000_000, Buffer.from("what this machine wrote"));
    await image.node.writeZeroes(4 * MIB, MIB);
    await image.node.flush();
  }

  // What a reader of the overlay sees, before and after, must be the same.
  await convertImage(overlay, copy, { format: "raw" });
  for await (const { state, missingBytes } of streamImage(overlay)) console.log(state, missingBytes);
  await rm(base);

  const { identical, difference } = await compareImages(overlay, copy, { formatB: "raw" });
  assert.ok(identical, `They differ at ${difference?.offset}`);
  const { corruptions, leaks } = await checkImage(overlay);
  console.log(`The same before and after; ${corruptions} corruptions, ${leaks} leaks`);
} finally {
  await rm(directory, { recursive: true });
}
