/** Images that `createQcow2` makes, as qemu-img sees them, and laid out like its own. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createQcow2 } from "../../src/formats/qcow2/create.ts";
import { readHeader } from "../../src/formats/qcow2/header-file.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-qcow2-create-"));
after(() => rmSync(directory, { recursive: true }));
const path = join(directory, "disk.qcow2");
const theirs = join(directory, "theirs.qcow2");
writeFileSync(join(directory, "base.raw"), "");

const qemuImg = (...args: string[]) => execFileSync("qemu-img", args, { encoding: "utf8", stdio: "pipe" });
const MIB = 2 ** 20;
const TIB = 2 ** 40;

interface Cell {
  options: Record<string, string>;
  size: number;
  backing: string | undefined;
}

const shapes: Record<string, string>[] = [
  { compat: "0.10" },
  { compat: "v2", refcount_bits: "16" },
  ...[1, 2, 4, 8, 16, 32, 64].map((bits) => ({ compat: "1.1", refcount_bits: String(bits) })),
  { compat: "v3", lazy_refcounts: "on" },
  { compression_type: "zstd" },
  { extended_l2: "on", refcount_bits: "1" },
];
const cells: Cell[] = [];
for (const cluster_size of ["512", "4K", "64k", "2M"]) {
  for (const shape of shapes) {
    for (const size of [0, 1, 10 * MIB, 4 * TIB]) {
      for (const backing of [undefined, "raw", ""]) cells.push({ options: { cluster_size, ...shape }, size, backing });
    }
  }
}

for (const { options, size, backing } of sample("qcow2 creation", cells, 24)) {
  const said = Object.entries(options).map(([name, value]) => `${name}=${value}`);
  if (backing !== undefined) said.push(`backing=${backing || "unknown format"}`);

  test(`${said.join(",")} ${size} (seed ${seed})`, async () => {
    const file = new MemoryNode(0, { name: path });
    const reference = backing === undefined ? {} : { backing: { reference: "base.raw", format: backing || undefined } };
    const created = createQcow2(file, { size, options, ...reference });
    const tooSmall = options.extended_l2 === "on" && /^(512|4K)$/.test(options.cluster_size ?? "");
    const tooLarge = size === 4 * TIB && options.cluster_size === "512";
    if (tooSmall || tooLarge) {
      await assert.rejects(created, {
        code: "invalid-argument",
        message: tooSmall ? /at least 16384/ : /L1 table would take 1073741824 bytes, more than 33554432/,
      });
      assert.equal(file.length, 0);
      return;
    }
    assert.equal((await created).size, Math.ceil(size / 512) * 512);
    assert.ok(file.flushes >= 2);
    await file.save(path);

    // A reference without a format makes qemu-img probe; it finds raw.
    assert.match(qemuImg("check", path), /^No errors were found/);
    const info = JSON.parse(qemuImg("info", "--output=json", path));
    const args = said.filter((option) => !option.startsWith("backing="));
    const link = backing === undefined ? [] : ["-u", "-b", "base.raw", ...(backing ? ["-F", backing] : ["-F", "raw"])];
    qemuImg("create", "-q", "-f", "qcow2", "-o", args.join(","), ...link, theirs, String(size));
    const expected = JSON.parse(qemuImg("info", "--output=json", theirs));
    const same = ["virtual-size", "cluster-size", "dirty-flag", "backing-filename", "format", "format-specific"];
    for (const key of same) assert.deepEqual(info[key], expected[key], key);
    assert.equal(info["backing-filename-format"], backing || undefined);

    const ours = await readHeader(file);
    const reread = await readHeader(await MemoryNode.load(theirs));
    const { features, size: virtual, refcountOrder, additional, l1 } = reread;
    assert.deepEqual(ours.features, features);
    assert.deepEqual([ours.size, ours.refcountOrder, ours.l1.entries], [virtual, refcountOrder, l1.entries]);
    assert.deepEqual(ours.additional, additional);
    if (backing !== "") {
      assert.deepEqual(ours.extensionList, reread.extensionList);
      assert.deepEqual(ours.backingName, reread.backingName);
    }
    assert.equal(file.length, (1 + ours.refcountTable.clusters) * ours.clusterSize + (await tail(file)));
  });
}

/** Bytes behind the refcount table: its blocks and the L1 table, in whole clusters. */
async function tail(file: MemoryNode): Promise<number> {
  const { refcountTable, clusterSize, l1 } = await readHeader(file);
  const table = new Uint8Array(refcountTable.clusters * clusterSize);
  await file.read(refcountTable.offset, table);
  let blocks = 0;
  const view = new DataView(table.buffer);
  while (blocks * 8 < table.length && view.getBigUint64(blocks * 8) !== 0n) blocks++;
  return blocks * clusterSize + Math.ceil((l1.entries * 8) / clusterSize) * clusterSize;
}
