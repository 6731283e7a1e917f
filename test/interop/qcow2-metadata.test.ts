/** What real images say of themselves, and compressed clusters, read from qemu-img's own. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { ClusterEntry, TableEntry } from "../../src/formats/mapped/codec.ts";
import { bitmapClusters, bitmapWarning, readBitmaps } from "../../src/formats/qcow2/bitmaps.ts";
import { decompressor } from "../../src/formats/qcow2/compressed.ts";
import { describeQcow2 } from "../../src/formats/qcow2/describe.ts";
import { qcow2Codec } from "../../src/formats/qcow2/entries.ts";
import { compressionType, hasExtendedL2, type Qcow2Header } from "../../src/formats/qcow2/header.ts";
import { readHeader, writeHeader } from "../../src/formats/qcow2/header-file.ts";
import { setBacking, setMark } from "../../src/formats/qcow2/header-update.ts";
import { readSnapshotL1, readSnapshots } from "../../src/formats/qcow2/snapshots.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { rng } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-qcow2-metadata-"));
after(() => rmSync(directory, { recursive: true }));
const at = (name: string) => join(directory, name);

const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: "utf8", stdio: "pipe" });
const qemuImg = (...args: string[]) => run("qemu-img", ...args);
const info = (path: string) => JSON.parse(qemuImg("info", "--output=json", path));
const MIB = 2 ** 20;

/** Every L2 entry of the active mapping. */
async function* entries(file: MemoryNode, header: Qcow2Header) {
  const { version, clusterBits, clusterSize, l1 } = header;
  const codec = qcow2Codec({ version, clusterBits, extendedL2: hasExtendedL2(header), name: file.name });
  const root = new Uint8Array(l1.entries * 8);
  await file.read(l1.offset, root);
  const perTable = clusterSize / codec.entryBytes;
  const table: TableEntry = { host: 0, owned: false };
  for (let index = 0; index < l1.entries; index++) {
    codec.decodeL1(new DataView(root.buffer), index, table);
    if (table.host === 0) continue;
    const l2 = new Uint8Array(clusterSize);
    await file.read(table.host, l2);
    for (let slot = 0; slot < perTable; slot++) {
      const entry: ClusterEntry = { host: 0, compressedLength: 0, owned: false, data: 0, zero: 0 };
      codec.decode(new DataView(l2.buffer), slot, entry);
      yield { guest: (index * perTable + slot) * clusterSize, tableOwned: table.owned, ...entry };
    }
  }
}

test("compressed clusters of qemu-img convert -c, at every kind of cluster size", async () => {
  // Half of it compresses well, a quarter not at all, a quarter is zero.
  const content = new Uint8Array(3 * MIB);
  for (let index = 0; index < 1.5 * MIB; index++) content[index] = (index >> 5) & 255;
  const random = rng("qcow2 incompressible");
  for (let index = 0; index < 0.75 * MIB; index++) content[1.5 * MIB + index] = random() * 256;
  await MemoryNode.of(content).save(at("plain.raw"));
  for (const options of [
    "compat=0.10,cluster_size=512",
    "cluster_size=4k",
    "cluster_size=64k",
    "cluster_size=2M",
    "cluster_size=4k,compression_type=zstd",
    "cluster_size=64k,compression_type=zstd,extended_l2=on",
    "cluster_size=2M,compression_type=zstd",
  ]) {
    qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, at("plain.raw"), at("packed.qcow2"));
    const file = await MemoryNode.load(at("packed.qcow2"));
    const header = await readHeader(file);
    const { clusterSize } = header;
    const expand = decompressor({ type: compressionType(header), clusterSize, node: file.name });
    let compressed = 0;
    let plain = 0;
    for await (const { guest, host, compressedLength, data, owned } of entries(file, header)) {
      if (data === 0) continue;
      const expected = new Uint8Array(clusterSize);
      expected.set(content.subarray(guest, guest + clusterSize));
      const bytes = new Uint8Array(Math.min(compressedLength || clusterSize, file.length - host));
      await file.read(host, bytes);
      const found = compressedLength > 0 ? await expand(bytes, guest) : bytes;
      assert.ok(Buffer.compare(found, expected.subarray(0, found.length)) === 0, `${options} at ${guest}`);
      if (compressedLength > 0) compressed++;
      else plain++;
      assert.equal(owned, compressedLength === 0);
    }
    const check = JSON.parse(qemuImg("check", "--output=json", at("packed.qcow2")));
    assert.equal(compressed, check["compressed-clusters"], options);
    assert.ok(compressed > 0 && (plain > 0 || clusterSize === 2 * MIB), options);
  }
});

test("zero clusters and subclusters", async () => {
  qemuImg("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", at("parts.qcow2"), "1M");
  run("qemu-io", "-c", "write 2k 4k", "-c", "write -z 8k 2k", "-c", "write -z 128k 64k", at("parts.qcow2"));
  const file = await MemoryNode.load(at("parts.qcow2"));
  const seen = [];
  for await (const { guest, data, zero, owned } of entries(file, await readHeader(file))) {
    if (data !== 0 || zero !== 0) seen.push({ guest, data, zero, owned });
  }
  assert.deepEqual(seen, [
    { guest: 0, data: 0b110, zero: 0b10000, owned: true },
    { guest: 131072, data: 0, zero: 0xffffffff, owned: false },
  ]);
});

test("snapshots", async () => {
  for (const compat of ["0.10", "1.1"]) {
    qemuImg("create", "-q", "-f", "qcow2", "-o", `compat=${compat},cluster_size=4k`, at("snapshots.qcow2"), "4M");
    run("qemu-io", "-c", "write 0 64k", at("snapshots.qcow2"));
    for (const name of ["first", "second ü", "x".repeat(200)]) qemuImg("snapshot", "-c", name, at("snapshots.qcow2"));
    const file = await MemoryNode.load(at("snapshots.qcow2"));
    const header = await readHeader(file);
    const { list, length } = await readSnapshots(file, header);
    assert.ok(length > 3 * 40 && length < 1024);
    const { snapshots } = describeQcow2(header, list, []);
    const expected = info(at("snapshots.qcow2")).snapshots;
    assert.deepEqual(snapshots, expected);
    for (const snapshot of list) {
      assert.equal(snapshot.diskSize, 4 * MIB);
      const l1 = await readSnapshotL1(file, snapshot);
      assert.ok(l1.some((byte) => byte !== 0));
    }
    await assert.rejects(readSnapshots(file, { ...header, snapshots: { ...header.snapshots, count: 60000 } }), {
      code: "invalid-image",
    });
  }
});

test("bitmaps", async () => {
  qemuImg("create", "-q", "-f", "qcow2", at("bitmaps.qcow2"), "64M");
  assert.deepEqual(await readBitmaps(...(await opened("bitmaps.qcow2"))), []);
  qemuImg("bitmap", "--add", at("bitmaps.qcow2"), "daily");
  qemuImg("bitmap", "--add", "--disable", "-g", "4M", at("bitmaps.qcow2"), "weekly");
  run("qemu-io", "-c", "write 0 1M", at("bitmaps.qcow2"));
  const [file, header] = await opened("bitmaps.qcow2");
  const bitmaps = await readBitmaps(file, header);
  const expected = info(at("bitmaps.qcow2"));
  const described = describeQcow2(header, [], bitmaps);
  assert.deepEqual(described["format-specific"], expected["format-specific"]);
  assert.match(bitmapWarning(bitmaps, "disk") ?? "", /'daily', 'weekly'/);

  const places = [];
  for await (const place of bitmapClusters(file, header)) places.push(place);
  // Directory, two tables, and the one cluster of bits that is not all zero.
  assert.equal(places.length, 4);

  // Cleared, the bitmaps are void for qemu-img too, and just these clusters are leaked.
  await writeHeader(file, setMark(header, false));
  assert.deepEqual(await readBitmaps(file, await readHeader(file)), []);
  await file.save(at("cleared.qcow2"));
  assert.equal(leaks("cleared.qcow2"), 4);
  assert.equal(info(at("cleared.qcow2"))["format-specific"].data.bitmaps, undefined);
});

test("a changed backing reference, as qemu-img reads it; bitmaps survive", async () => {
  qemuImg("create", "-q", "-f", "raw", at("one.raw"), "1M");
  qemuImg("create", "-q", "-f", "qcow2", at("two.qcow2"), "1M");
  for (const options of [
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=64k",
    "cluster_size=2M,compression_type=zstd",
  ]) {
    const path = at("overlay.qcow2");
    qemuImg("create", "-q", "-f", "qcow2", "-b", at("one.raw"), "-F", "raw", "-o", options, path);
    const small = options.includes("=512");
    if (!small && !options.includes("0.10")) qemuImg("bitmap", "--add", path, "daily");
    const file = await MemoryNode.load(path);
    const before = info(path)["format-specific"];
    for (const reference of [
      { reference: "two.qcow2", format: "qcow2" },
      { reference: "one.raw", format: "raw" },
      undefined,
    ]) {
      await writeHeader(file, setBacking(await readHeader(file), reference, file.name));
      await file.save(path);
      const said = info(path);
      assert.equal(said["backing-filename"], reference?.reference);
      assert.equal(said["backing-filename-format"], reference?.format);
      assert.deepEqual(said["format-specific"], before);
      assert.match(qemuImg("check", path), /^No errors were found/);
    }
    // qemu-img rewrites a header that we wrote.
    qemuImg("rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", path);
    const [, header] = await opened("overlay.qcow2");
    assert.deepEqual(header.backing, { reference: "two.qcow2", format: "qcow2" });
  }
});

async function opened(name: string): Promise<[MemoryNode, Qcow2Header]> {
  const file = await MemoryNode.load(at(name));
  return [file, await readHeader(file)];
}

function leaks(name: string): number {
  try {
    return JSON.parse(qemuImg("check", "--output=json", at(name))).leaks ?? 0;
  } catch (error) {
    return JSON.parse(String((error as { stdout?: string }).stdout)).leaks;
  }
}

test("what real programs make and is not implemented is refused by name", async () => {
  const secret = ["--object", "secret,id=key,data=123456"];
  const cases: [args: string[], message: RegExp][] = [
    [[...secret, "-o", "encrypt.format=aes,encrypt.key-secret=key"], /encrypted \(AES\)/],
    [["-o", `data_file=${at("data.raw")}`], /external data file/],
  ];
  for (const [args, message] of cases) {
    qemuImg("create", "-q", "-f", "qcow2", ...args, at("refused.qcow2"), "1M");
    await assert.rejects(opened("refused.qcow2"), { code: "unsupported", message });
  }
});

test("every entry that qemu-img leaves behind can be read", async () => {
  const path = at("lived.qcow2");
  const lives: string[][][] = [
    [["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "4M"]],
    [["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata,extended_l2=on", path, "4M"]],
    [
      ["create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "4M"],
      ["snapshot", "-c", "s", path],
      ["snapshot", "-a", "s", path],
      ["amend", "-f", "qcow2", "-o", "compat=1.1", path],
    ],
    [
      ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=1", path, "4M"],
      ["amend", "-f", "qcow2", "-o", "refcount_bits=64", path],
      ["resize", "-q", "--shrink", path, "2M"],
      ["resize", "-q", path, "8M"],
    ],
  ];
  for (const [first = [], ...later] of lives) {
    qemuImg(...first);
    for (const command of ["write 0 1M", "write -z -u 256k 256k", "discard 1M 64k", "write -z 64k 128k"]) {
      run("qemu-io", "-d", "unmap", "-c", command, path);
    }
    for (const args of later) {
      qemuImg(...args);
      run("qemu-io", "-c", "write 700k 300k", path);
    }
    const [file, header] = await opened("lived.qcow2");
    let data = 0;
    for await (const entry of entries(file, header)) data += entry.data === 0 ? 0 : 1;
    assert.ok(data > 0);
    for (const snapshot of (await readSnapshots(file, header)).list) {
      const l1 = { offset: snapshot.l1Offset, entries: snapshot.l1Entries };
      for await (const entry of entries(file, { ...header, l1 })) assert.ok(entry.host >= 0);
    }
  }
});
