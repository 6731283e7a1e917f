/** Single features of the formats, each with the peer on the other side: bitmaps, the corrupt bit, preallocation, discards, sizes, raw. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openChain } from "../../src/chain/index.ts";
import { createFormat } from "../../src/formats/index.ts";
import { openFile } from "../../src/sources/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel } from "../support/byte-model.ts";
import { peerChanges, weChange, windowsOf } from "../support/disk-actions.ts";
import { mustCompare, ourMap, peerDoes, qemuCheck, qemuCheckStatus, qemuMap } from "../support/peer-images.ts";
import { qemuImg, run } from "../support/qemu.ts";
import { rng, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-features-"));
after(() => rmSync(directory, { recursive: true }));
const at = (name: string) => join(directory, name);

const KIB = 1024;
const MIB = 1024 * KIB;
const filled = (length: number, byte: number) => new Uint8Array(length).fill(byte);
const info = (path: string) => JSON.parse(qemuImg("info", "--output=json", path));

async function flipBit(path: string, offset: number, bit: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Buffer.of((byte[0] ?? 0) ^ bit), 0, 1, offset);
}

test("persistent bitmaps: nobody is told of them after our first write, and we have said so", async () => {
  const path = at("bitmaps.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "4M");
  qemuImg("bitmap", "--add", path, "daily");
  peerDoes(path, "qcow2", ["write -P 1 0 1M"]);
  const bitmaps = () => info(path)["format-specific"].data.bitmaps?.map(({ name }: { name: string }) => name);
  assert.deepEqual(bitmaps(), ["daily"]);

  // To read, or to open for writing and write nothing, is no change.
  await using reader = await openChain({ file: path, format: "qcow2", readOnly: true });
  assert.deepEqual(reader.warnings, []);
  await reader.close();
  await using idle = await openChain({ file: path, format: "qcow2" });
  assert.match(idle.warnings.join(), /bitmaps\.qcow2' makes its persistent bitmaps invalid \('daily'\)/);
  await idle.close();
  assert.deepEqual(bitmaps(), ["daily"]);
  qemuCheck(path, "qcow2");

  await using chain = await openChain({ file: path, format: "qcow2" });
  await chain.node.write(2 * MIB, filled(5000, 2));
  await chain.close();
  assert.equal(bitmaps(), undefined);
  // What they took is leaked, for either side to give back.
  const { leaks, status } = qemuCheckStatus(path, "qcow2");
  assert.equal(status, 3);
  await using repaired = await openChain({ file: path, format: "qcow2" }, { forCheck: true });
  assert.equal((await repaired.node.check({ repair: "leaks" }))["leaks-fixed"], leaks);
  await repaired.close();
  const model = new ByteModel(4 * MIB);
  await model.write(0, filled(MIB, 1));
  await model.write(2 * MIB, filled(5000, 2));
  await mustAgree({ path, format: "qcow2", model, label: "bitmaps" });
});

test("an image that is marked corrupt is read, and refused for writing, as by QEMU", async () => {
  const path = at("corrupt.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", path, "4M");
  peerDoes(path, "qcow2", ["write -P 7 0 100k"]);
  await flipBit(path, 79, 2);
  assert.equal(info(path)["format-specific"].data.corrupt, true);
  assert.match(run("qemu-io", "-f", "qcow2", "-c", "write 0 512", path).stderr, /corrupt/);
  await assert.rejects(openChain({ file: path, format: "qcow2" }), { code: "refused", message: /is marked corrupt/ });
  await using chain = await openChain({ file: path, format: "qcow2", readOnly: true });
  const bytes = new Uint8Array(100 * KIB);
  await chain.node.read(0, bytes);
  assert.ok(bytes.every((byte) => byte === 7));
  await assert.rejects(chain.node.write(0, bytes), { code: "permission" });
  await chain.close();
  // Repaired by the peer, it is as any other.
  qemuImg("check", "-r", "all", path);
  await using again = await openChain({ file: path, format: "qcow2" });
  await again.node.write(0, bytes);
});

for (const options of [
  "cluster_size=4k",
  "cluster_size=64k",
  "cluster_size=512",
  "cluster_size=2M",
  "cluster_size=64k,extended_l2=on",
  "cluster_size=4k,compat=0.10",
]) {
  test(`clusters that were allocated beforehand: ${options} (seed ${seed})`, async () => {
    const path = at("preallocated.qcow2");
    const random = rng(`preallocation ${options}`);
    const size = 6 * MIB;
    qemuImg("create", "-q", "-f", "qcow2", "-o", `${options},preallocation=metadata`, path, String(size));
    const clusterSize = (info(path) as { "cluster-size": number })["cluster-size"];
    const ground = { random, windows: windowsOf(size, MIB, clusterSize), clusterSize, longest: 100 * KIB };
    const model = new ByteModel(size);
    const discarded = await peerChanges(path, "qcow2", model, ground, 8);
    await using chain = await openChain({ file: path, format: "qcow2" });
    for (const range of discarded) await model.discarded(range, chain.node);
    await model.verify(chain.node, [], options);
    await weChange(chain.node, model, ground, 25);
    await chain.close();

    await model.disk.save(at("model.raw"));
    mustCompare(path, "qcow2", at("model.raw"));
    qemuCheck(path, "qcow2");
    // QEMU asks the file whether clusters that were only allocated are holes in it; apart from that the maps are the same.
    await using again = await openChain({ file: path, format: "qcow2", readOnly: true });
    const ours = await ourMap(again.node);
    for (const { start, length, data, present } of qemuMap(path, "qcow2")) {
      if (!data && present) continue;
      const inside = ours.filter((line) => line.start < start + length && start < line.start + line.length);
      assert.ok(
        inside.every((line) => line.data === data && line.present === present),
        `${start} + ${length}`,
      );
    }
  });
}

test("zeroes that keep their clusters, and zeroes that give them back", async () => {
  for (const options of ["cluster_size=4k", "cluster_size=64k", "cluster_size=64k,extended_l2=on"]) {
    const path = at("zeroes.qcow2");
    writeFileSync(at("below.raw"), filled(2 * MIB, 0xee));
    qemuImg("create", "-q", "-f", "qcow2", "-o", options, "-b", at("below.raw"), "-F", "raw", path);
    peerDoes(path, "qcow2", [
      "write -P 1 0 1M",
      "write -z 128k 256k",
      "write -z -u 512k 256k",
      "write -z 1536k 64k",
      "write -z -u 1664k 64k",
    ]);
    const model = new ByteModel(2 * MIB);
    await model.write(0, filled(2 * MIB, 0xee));
    await model.write(0, filled(MIB, 1));
    for (const [from, to] of [
      [128, 384],
      [512, 768],
      [1536, 1600],
      [1664, 1728],
    ] as const) {
      await model.zero({ offset: from * KIB, length: (to - from) * KIB });
    }
    await mustAgree({ path, format: "qcow2", model, label: `${options}, theirs` });
    // Into both kinds, whole clusters and parts.
    await using chain = await openChain({ file: path, format: "qcow2" });
    for (const [offset, length] of [
      [130 * KIB, 700],
      [192 * KIB, 64 * KIB],
      [514 * KIB, 700],
      [576 * KIB, 64 * KIB],
      [1540 * KIB, 1],
      [1670 * KIB, 1],
    ] as const) {
      await chain.node.write(offset, filled(length, 2));
      await model.write(offset, filled(length, 2));
    }
    await chain.close();
    await mustAgree({ path, format: "qcow2", model, label: `${options}, ours` });
  }
});

test("version 2 has no zero clusters: a discard over a base never shows it", async () => {
  const path = at("v2.qcow2");
  writeFileSync(at("secret.raw"), filled(4 * MIB, 0x5e));
  qemuImg("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", at("secret.raw"), "-F", "raw", path);
  peerDoes(path, "qcow2", ["write -P 1 0 2M"]);
  await using chain = await openChain({ file: path, format: "qcow2" });
  const model = new ByteModel(4 * MIB);
  await model.write(0, filled(4 * MIB, 0x5e));
  await model.write(0, filled(2 * MIB, 1));
  for (const range of [
    { offset: 0, length: MIB },
    { offset: MIB + 100, length: 200_000 },
  ]) {
    await chain.node.discard(range.offset, range.length);
    await model.discarded(range, chain.node);
  }
  await chain.node.writeZeroes(3 * MIB + 77, 300_000);
  await model.zero({ offset: 3 * MIB + 77, length: 300_000 });
  await chain.close();
  await mustAgree({ path, format: "qcow2", model, label: "version 2" });
});

test("a disk that was cut keeps no secrets, and its tables are nobody's leaks", async () => {
  for (const [format, options] of [
    ["qed", { cluster_size: "4096", table_size: "2" }],
    ["qcow2", { cluster_size: "512" }],
    ["qcow2", { cluster_size: "4K", compat: "v2" }],
    ["qcow2", { cluster_size: "16K", extended_l2: "on" }],
  ] as const) {
    const path = at(`cut.${format}`);
    rmSync(path, { force: true });
    await using file = await openFile(path, { readOnly: false, create: true });
    await createFormat(format, file, { size: 32 * MIB, options });
    await file.close();
    await using chain = await openChain({ file: path, format });
    await chain.node.write(0, filled(100_000, 1));
    await chain.node.write(20 * MIB, filled(100_000, 2));
    await chain.node.resize(MIB);
    await chain.close();
    const model = new ByteModel(MIB);
    await model.write(0, filled(100_000, 1));
    await mustAgree({ path, format, model, label: `${format}, cut` });

    await using again = await openChain({ file: path, format });
    assert.deepEqual((await again.node.check({ repair: "leaks" })).findings, []);
    await again.node.write(500_000, filled(100_000, 3));
    await again.node.resize(40 * MIB);
    await again.close();
    await model.resize(40 * MIB);
    await model.write(500_000, filled(100_000, 3));
    await mustAgree({ path, format, model, label: `${format}, grown again` });
  }
});

test("a large disk of small clusters grows", async () => {
  const path = at("grown.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", path, "1M");
  await using chain = await openChain({ file: path, format: "qcow2" });
  // The L1 table gets longer than what a refcount block counts.
  await chain.node.resize(2 ** 31);
  const model = new ByteModel(2 ** 31);
  const offset = 2 ** 31 - 200_000;
  await chain.node.write(offset, filled(200_000, 5));
  await model.write(offset, filled(200_000, 5));
  await chain.close();
  await mustAgree({ path, format: "qcow2", model, windows: [{ offset: 0, length: MIB }], label: "grown" });
});

test(`raw files of odd sizes (seed ${seed})`, async () => {
  for (const length of [1, 512, 70_001, 3 * MIB + 100]) {
    const path = at("odd.raw");
    writeFileSync(path, filled(length, 9));
    const size = Math.ceil(length / 512) * 512;
    const model = new ByteModel(size);
    await model.write(0, filled(length, 9));
    const random = rng(`raw ${length}`);
    const ground = { random, windows: [{ offset: 0, length: size }], clusterSize: 4 * KIB, longest: 100 * KIB };
    for (let round = 0; round < 3; round++) {
      await using chain = await openChain({ file: path, format: "raw" });
      await weChange(chain.node, model, ground, 10);
      await chain.close();
      await mustAgree({ path, format: "raw", model, label: `raw of ${length}, ours` });
      const discarded = await peerChanges(path, "raw", model, ground, 8);
      await using reader = await openChain({ file: path, format: "raw", readOnly: true });
      for (const range of discarded) await model.discarded(range, reader.node);
      await reader.close();
      await mustAgree({ path, format: "raw", model, label: `raw of ${length}, theirs` });
    }
  }
});
