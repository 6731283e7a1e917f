/**
 * Fills an overlay in single steps, for a program that wants to decide before each one: a scheduler that has a budget, or a
 * loop that does other work in between.
 */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createImage, openImage, stepImage } from "streamdisk";

const MIB = 2 ** 20;
const directory = await mkdtemp(join(tmpdir(), "streamdisk-example-"));
try {
  const overlay = join(directory, "vm1.qed");
  await writeFile(join(directory, "base.raw"), randomBytes(10 * MIB));
  await createImage(overlay, { format: "qed", backing: "base.raw", backingFormat: "raw" });

  // Opened once for all steps. With a path instead of an image each step opens and closes it.
  await using image = await openImage(overlay, { format: "qed" });
  let offset = 0;
  for (;;) {
    const { next, copied, done } = await stepImage(image, { offset, length: 4 * MIB });
    console.log(`${copied} bytes copied, to go on at ${next}`);
    if (done) break;
    offset = next;
  }
  console.log("Nothing is missing any more, and the link to the backing file is gone.");
} finally {
  await rm(directory, { recursive: true });
}
