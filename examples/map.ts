/** Shows which parts of a disk are local, which read as zeroes, and which would have to be fetched. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createImage, imageInfo, imageMap, openImage } from "streamdisk";

const MIB = 2 ** 20;
const directory = await mkdtemp(join(tmpdir(), "streamdisk-example-"));
try {
  const base = join(directory, "base.qcow2");
  const overlay = join(directory, "vm1.qcow2");
  await createImage(base, { format: "qcow2", size: 32 * MIB });
  {
    await using image = await openImage(base);
    await image.node.write(4 * MIB, Buffer.alloc(8 * MIB, 1));
  }
  await createImage(overlay, { format: "qcow2", backing: "base.qcow2", backingFormat: "qcow2" });
  {
    await using image = await openImage(overlay);
    await image.node.write(6 * MIB, Buffer.alloc(MIB, 2));
  }

  let bar = "";
  for await (const { start, length, missing, zero, depth } of imageMap(overlay)) {
    const kind = missing ? "missing" : zero ? "zero" : "local";
    console.log(`${start} to ${start + length}: ${kind}, layer ${depth}`);
    bar += { missing: "-", zero: ".", local: "#" }[kind].repeat((2 * length) / MIB);
  }
  console.log(bar);

  const info = await imageInfo(overlay);
  console.log(`${info["local-bytes"]} local, ${info["zero-bytes"]} zero, ${info["missing-bytes"]} missing`);
} finally {
  await rm(directory, { recursive: true });
}
