/** QED headers that we write, read by qemu-img, and the other way round. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createQed } from "../../src/formats/qed/create.ts";
import { qedMaxSize, qemuCannotOpen } from "../../src/formats/qed/header.ts";
import { readQedHeader, writeQedHeader } from "../../src/formats/qed/header-file.ts";
import { setBacking, setImageSize, setMark } from "../../src/formats/qed/header-update.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { full, sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-qed-"));
after(() => rmSync(directory, { recursive: true }));
const path = join(directory, "x.qed");

const qemuImg = (...args: string[]) => execFileSync("qemu-img", args, { encoding: "utf8", stdio: "pipe" });

const info = () => JSON.parse(qemuImg("info", "--output=json", path));

const shapes: { clusterSize: number; tableClusters: number }[] = [];
for (let clusterSize = 4096; clusterSize <= 2 ** 26; clusterSize *= 2) {
  for (const tableClusters of [1, 2, 4, 8, 16]) shapes.push({ clusterSize, tableClusters });
}

/** Virtual sizes worth a look: a sector, around a cluster, and the largest that both sides can express. */
function sizes(clusterSize: number, tableClusters: number): number[] {
  const most = Math.min(qedMaxSize(clusterSize, tableClusters), 2 ** 52);
  return [512, clusterSize + 512, most];
}

for (const { clusterSize, tableClusters } of sample("qed shapes", shapes, 12)) {
  const shape = { cluster_size: String(clusterSize), table_size: String(tableClusters) };
  const refused = qemuCannotOpen(clusterSize, tableClusters);

  test(`clusters of ${clusterSize}, tables of ${tableClusters}: ours there (seed ${seed})`, async () => {
    for (const size of full ? sizes(clusterSize, tableClusters) : sizes(clusterSize, tableClusters).slice(-2)) {
      const file = new MemoryNode(0, { name: path });
      await createQed(file, { size, options: shape });
      await file.save(path);
      if (refused !== undefined) {
        assert.throws(info, /Could not open/, refused);
        continue;
      }
      const said = info();
      assert.equal(said.format, "qed");
      assert.equal(said["virtual-size"], size);
      assert.equal(said["cluster-size"], clusterSize);
      assert.equal(said["dirty-flag"], false);
      assert.match(qemuImg("check", path), /No errors were found/);
    }
  });

  test(`clusters of ${clusterSize}, tables of ${tableClusters}: theirs here (seed ${seed})`, async () => {
    const create = () =>
      qemuImg(
        "create",
        "-q",
        "-f",
        "qed",
        "-o",
        `cluster_size=${clusterSize},table_size=${tableClusters}`,
        path,
        "1000001",
      );
    if (qedMaxSize(clusterSize, tableClusters) >= 2 ** 64) {
      assert.throws(create, /QED image size/, refused);
      return;
    }
    create();
    const { header, backing } = await readQedHeader(await MemoryNode.load(path));
    assert.equal(backing, undefined);
    const ours = new MemoryNode();
    await createQed(ours, { size: 1_000_001, options: shape });
    assert.deepEqual((await readQedHeader(ours)).header, header);
    assert.equal(ours.length, (await MemoryNode.load(path)).length);
  });
}

test("backing references, both ways", async () => {
  for (const format of ["raw", "qcow2"]) {
    for (const length of [1, 448, 449, 1023]) {
      const reference = "b".repeat(length);
      qemuImg("create", "-q", "-u", "-f", "qed", "-b", reference, "-F", format, path, "1M");
      const read = await readQedHeader(await MemoryNode.load(path));
      assert.deepEqual(read.backing, { reference, format: format === "raw" ? "raw" : undefined });

      const file = new MemoryNode();
      await createQed(file, { size: 2 ** 20, backing: { reference, format } });
      await file.save(path);
      assert.equal(info()["backing-filename"], reference);
      assert.equal(info()["backing-filename-format"], format === "raw" ? "raw" : undefined);
    }
  }
});

test("qemu-img follows every change of a header", async () => {
  const file = new MemoryNode();
  writeFileSync(join(directory, "first.raw"), new Uint8Array(512));
  await createQed(file, { size: 2 ** 20, backing: { reference: "first.raw", format: "raw" } });
  const read = await readQedHeader(file);
  let { header } = read;
  const apply = async (update: Parameters<typeof writeQedHeader>[1]) => {
    header = await writeQedHeader(file, update);
    await file.save(path);
    return info();
  };
  // `info` of QEMU 7.2 does not tell of the mark; opening for writing checks the image and takes it away.
  await apply(setMark(header, true));
  execFileSync("qemu-io", ["-c", "flush", path], { stdio: "pipe" });
  assert.deepEqual(await readQedHeader(await MemoryNode.load(path)), {
    ...read,
    // And our bit with it: what QEMU does not know, it clears before it writes.
    header: { ...header, needCheck: false, autoclearFeatures: 0n },
  });
  await apply(setMark(header, false));
  assert.equal((await apply(setImageSize(header, 2 ** 30, path)))["virtual-size"], 2 ** 30);
  const long = { reference: "l".repeat(1000), format: undefined };
  const renamed = await apply(setBacking(header, long, path));
  assert.equal(renamed["backing-filename"], long.reference);
  assert.equal(renamed["backing-filename-format"], undefined);
  assert.equal((await apply(setBacking(header, undefined, path)))["backing-filename"], undefined);
  assert.match(qemuImg("check", path), /No errors were found/);

  qemuImg("rebase", "-u", "-b", "theirs", "-F", "raw", path);
  assert.deepEqual((await readQedHeader(await MemoryNode.load(path))).backing, { reference: "theirs", format: "raw" });
});

test("images that qemu-img refuses are refused here", async () => {
  const bad: [number, number, number][] = [
    [4, 4097, 4],
    [8, 3, 4],
    [16, 8, 8],
    [40, 65537, 8],
    [40, 131072, 8],
    [48, 513, 8],
  ];
  for (const [at, value, bytes] of bad) {
    const file = new MemoryNode(0, { name: path });
    await createQed(file, { size: 512 });
    const field = Buffer.alloc(bytes);
    if (bytes === 4) field.writeUInt32LE(value);
    else field.writeBigUInt64LE(BigInt(value));
    await file.write(at, field);
    await file.save(path);
    assert.throws(info, Error, `field at ${at}`);
    await assert.rejects(readQedHeader(file), { name: "StreamdiskError" }, `field at ${at}`);
  }
});
