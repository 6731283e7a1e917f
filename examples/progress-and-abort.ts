/** Streams an overlay and shows how far it is, stops half-way, and goes on where it was. */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createImage, streamImage } from "streamdisk";

const MIB = 2 ** 20;
const directory = await mkdtemp(join(tmpdir(), "streamdisk-example-"));
try {
  const overlay = join(directory, "vm1.qcow2");
  await writeFile(join(directory, "base.raw"), randomBytes(48 * MIB));
  await createImage(overlay, { format: "qcow2", backing: "base.raw", backingFormat: "raw" });

  // A program with a user would abort when somebody presses "stop"; this one does when half is there.
  const stop = new AbortController();
  try {
    for await (const progress of streamImage(overlay, { speed: 60 * MIB, signal: stop.signal })) {
      console.log(`${progress.state}: ${progress.localBytes} local, ${progress.missingBytes} missing`);
      if (progress.missingBytes <= 24 * MIB) stop.abort();
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    console.log("Stopped. What was fetched stays in the image.");
  }

  // Nothing has to be remembered: what is missing in the image is what is left to do.
  let fetched = 0;
  for await (const { copiedBytes } of streamImage(overlay)) fetched = copiedBytes;
  console.log(`The second run fetched ${fetched} bytes, and the image stands alone.`);
} finally {
  await rm(directory, { recursive: true });
}
