/**
 * Compressed clusters: what qemu-img and qemu-io pack, we read; what we write over it, whole clusters or parts, they read; and the
 * counts of what is shared by several compressed clusters stay right.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openChain } from "../../src/chain/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel } from "../support/byte-model.ts";
import { type Playground, peerChanges, weChange, windowsOf } from "../support/disk-actions.ts";
import { below, type Random } from "../support/draw.ts";
import { peerDoes, qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng, sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-compressed-"));
after(() => rmSync(directory, { recursive: true }));

const KIB = 1024;
const MIB = 1024 * KIB;

interface Cell {
  readonly options: string;
  readonly clusterSize: number;
}

const cells: Cell[] = [512, 4 * KIB, 64 * KIB, 2 * MIB].flatMap((clusterSize) => {
  const shapes = ["compat=0.10", "compression_type=zlib", "compression_type=zstd"];
  if (clusterSize >= 16 * KIB) shapes.push("extended_l2=on", "extended_l2=on,compression_type=zstd");
  return shapes.map((shape) => ({ clusterSize, options: `cluster_size=${clusterSize},${shape}` }));
});

for (const { options, clusterSize } of sample("compressed", cells, 6)) {
  test(`${options} (seed ${seed})`, async () => {
    const random = rng(options);
    const path = join(directory, "image.qcow2");
    const packed = join(directory, "packed.raw");
    const label = options;
    const size = Math.max(3 * MIB, 4 * clusterSize) + 512;
    const model = new ByteModel(size);
    await fill(model, random);
    await model.disk.save(packed);
    qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, packed, path);
    const compressed = qemuCheck(path, "qcow2")["compressed-clusters"] ?? 0;
    assert.ok(compressed > 0, "the peer has packed something");
    const agreed = { path, format: "qcow2", model, label } as const;
    await mustAgree(agreed);

    const ground: Playground = { random, windows: windowsOf(size, size, clusterSize), clusterSize, longest: 256 * KIB };
    for (let round = 0; round < 2; round++) {
      await using chain = await openChain({ file: path, format: "qcow2" });
      await weChange(chain.node, model, ground, 20);
      await chain.close();
      await mustAgree({ ...agreed, label: `${label}, ours, round ${round}` });

      const discarded = await peerChanges(path, "qcow2", model, ground, 8);
      await settle(path, model, discarded);
      if (!options.includes("extended")) await packAgain(path, model, clusterSize);
      await mustAgree({ ...agreed, label: `${label}, theirs, round ${round}` });
    }
  });
}

/** Some of it compresses well, some not at all, some is missing. */
async function fill(model: ByteModel, random: Random): Promise<void> {
  for (let at = 0; at < model.length; at += 96 * KIB) {
    const length = Math.min(64 * KIB, model.length - at);
    const kind = below(random, 4);
    if (kind === 0) continue;
    const bytes = new Uint8Array(length).fill(1 + below(random, 255));
    if (kind === 1) for (let i = 0; i < length; i++) bytes[i] = random() * 256;
    if (kind === 2) for (let i = 0; i < length; i += 7) bytes[i] = i >> 8;
    await model.write(at, bytes);
  }
}

async function settle(
  path: string,
  model: ByteModel,
  discarded: Parameters<ByteModel["discarded"]>[0][],
): Promise<void> {
  await using chain = await openChain({ file: path, format: "qcow2", readOnly: true });
  for (const range of discarded) await model.discarded(range, chain.node);
}

/** The peer compresses what is not allocated: clusters that we or it gave back, which may share a host cluster again. */
async function packAgain(path: string, model: ByteModel, clusterSize: number): Promise<void> {
  await using chain = await openChain({ file: path, format: "qcow2", readOnly: true });
  const free: number[] = [];
  for (const { offset, length, kind, hostOffset } of await chain.node.extents(0, chain.node.length)) {
    // It packs no cluster that has space already.
    if (kind === "data" || hostOffset !== undefined) continue;
    const first = Math.ceil(offset / clusterSize) * clusterSize;
    for (let at = first; at + clusterSize <= offset + length && free.length < 8; at += clusterSize) free.push(at);
  }
  await chain.close();
  if (free.length === 0) return;
  peerDoes(
    path,
    "qcow2",
    free.map((at) => `write -c -P 77 ${at} ${clusterSize}`),
  );
  for (const at of free) await model.write(at, new Uint8Array(clusterSize).fill(77));
}
