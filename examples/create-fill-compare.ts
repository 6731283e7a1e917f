/** Makes a base and an overlay, writes to both as a guest would, fills the overlay and compares it with a copy. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compareImages, convertImage, createImage, openImage, streamImage } from "streamdisk";

const MIB = 2 ** 20;
const directory = await mkdtemp(join(tmpdir(), "streamdisk-example-"));
try {
  const base = join(directory, "debian.qcow2");
  const overlay = join(directory, "vm1.qcow2");
  const copy = join(directory, "copy.raw");
  await createImage(base, { format: "qcow2", size: 64 * MIB });
  {
    await using image = await openImage(base);
    await image.node.write(0, Buffer.alloc(8 * MIB, "system"));
  }

  await createImage(overlay, { format: "qcow2", backing: "debian.qcow2", backingFormat: "qcow2" });
  {
    await using image = await openImage(overlay);
    await image.node.write(1_000_000, Buffer.from("what this machine wrote"));
  }

  // What a reader of the overlay sees, before and after, must be the same.
  await convertImage(overlay, copy, { format: "raw" });
  for await (const { state, missingBytes } of streamImage(overlay)) console.log(state, missingBytes);
  await rm(base);

  const { identical, difference } = await compareImages(overlay, copy, { formatB: "raw" });
  assert.ok(identical, `They differ at ${difference?.offset}`);
  console.log("The same before and after");
} finally {
  await rm(directory, { recursive: true });
}
