/**
 * Internal snapshots: what we do to the disk leaves each of them byte for byte as it was, for qemu-img to read, to go back to and to
 * delete. What would make one unreadable is refused by name.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { isOverlay } from "../../src/block/index.ts";
import { openChain } from "../../src/chain/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel, type Range } from "../support/byte-model.ts";
import { type Playground, peerChanges, weChange, windowsOf } from "../support/disk-actions.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { peerDoes, qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng, sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-snapshots-"));
after(() => rmSync(directory, { recursive: true }));

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 3 * MIB + 512;
const path = join(directory, "image.qcow2");
const format = "qcow2";

interface Cell {
  readonly options: string;
  readonly clusterSize: number;
  readonly withBase: boolean;
}

const cells: Cell[] = [512, 4 * KIB, 64 * KIB, 2 * MIB].flatMap((clusterSize) => {
  const shapes = ["compat=0.10", "compat=1.1", "lazy_refcounts=on", "refcount_bits=8"];
  if (clusterSize >= 16 * KIB) shapes.push("extended_l2=on");
  return shapes.flatMap((shape) =>
    [false, true].map((withBase) => ({ options: `cluster_size=${clusterSize},${shape}`, clusterSize, withBase })),
  );
});

/** What a snapshot was when it was taken. */
interface Taken {
  readonly name: string;
  readonly content: ByteModel;
}

async function take(name: string, model: ByteModel): Promise<Taken> {
  qemuImg("snapshot", "-c", name, path);
  return { name, content: await copyOf(model) };
}

async function copyOf(model: ByteModel): Promise<ByteModel> {
  const copy = new ByteModel(model.length);
  await copy.takeFrom(model);
  return copy;
}

async function mustHold({ name, content }: Taken): Promise<void> {
  const raw = join(directory, "snapshot.raw");
  qemuImg("convert", "-f", format, "-l", `snapshot.name=${name}`, "-O", "raw", path, raw);
  const seen = await MemoryNode.load(raw, { grows: false });
  // Its own size counts when the disk goes back to it; read this way it has the present one.
  const expected = await copyOf(content);
  await expected.resize(seen.length);
  await expected.verify(seen, [], `snapshot '${name}'`);
}

function create(options: string, base: string | undefined): void {
  const backing = base === undefined ? [] : ["-b", base, "-F", "raw"];
  qemuImg("create", "-q", "-f", format, "-o", options, ...backing, path, String(SIZE));
}

async function settle(model: ByteModel, discarded: readonly Range[]): Promise<void> {
  await using chain = await openChain({ file: path, format, readOnly: true });
  for (const range of discarded) await model.discarded(range, chain.node);
}

for (const { options, clusterSize, withBase } of sample("snapshots", cells, 8)) {
  const label = `${options}${withBase ? ", over a base" : ""}`;
  test(`${label} (seed ${seed})`, async () => {
    const random = rng(label);
    const windows = windowsOf(SIZE, (clusterSize / 8) * clusterSize, clusterSize);
    const ground: Playground = { random, windows, clusterSize, longest: 128 * KIB };
    const model = new ByteModel(SIZE);
    if (withBase) {
      await model.write(0, new Uint8Array(SIZE - 1000).fill(0xba));
      await model.disk.save(join(directory, "base.raw"));
    }
    create(options, withBase ? join(directory, "base.raw") : undefined);
    const taken: Taken[] = [];
    for (const name of ["first", "second"]) {
      await settle(model, await peerChanges(path, format, model, ground, 10));
      taken.push(await take(name, model));
      await using chain = await openChain({ file: path, format });
      await weChange(chain.node, model, ground, 20);
      await chain.close();
      await mustAgree({ path, format, model, label: `${label}, after '${name}'` });
      for (const snapshot of taken) await mustHold(snapshot);
    }
    // Back to the first one, and on from there.
    qemuImg("snapshot", "-a", "first", path);
    const again = await copyOf((taken[0] as Taken).content);
    await using chain = await openChain({ file: path, format });
    await weChange(chain.node, again, ground, 10);
    await chain.close();
    for (const snapshot of taken) await mustHold(snapshot);
    for (const { name } of taken) qemuImg("snapshot", "-d", name, path);
    await mustAgree({ path, format, model: again, label: `${label}, without snapshots` });
  });
}

test("an image with snapshots grows in version 3, and not in version 2; it keeps its link in both", async () => {
  const base = join(directory, "base.raw");
  await new MemoryNode(SIZE).save(base);
  for (const compat of ["0.10", "1.1"]) {
    create(`cluster_size=4k,compat=${compat}`, base);
    const model = new ByteModel(SIZE);
    peerDoes(path, format, ["write -P 5 0 100k"]);
    await model.write(0, new Uint8Array(100 * KIB).fill(5));
    const taken = await take("before", model);
    await using chain = await openChain({ file: path, format });
    const { node } = chain;
    assert.ok(isOverlay(node));
    await assert.rejects(node.changeBacking(undefined, undefined), { code: "refused", message: /'before'/ });
    for (const length of [SIZE + MIB, SIZE - MIB, 64 * MIB]) {
      if (compat === "0.10") {
        await assert.rejects(node.resize(length), { code: "refused", message: /'before'/ }, String(length));
        continue;
      }
      await node.resize(length);
      await model.resize(length);
    }
    await chain.close();
    await mustAgree({ path, format, model, label: compat });
    await mustHold(taken);
    // The peer goes back to it, with the size that it had.
    qemuImg("snapshot", "-a", "before", path);
    await mustAgree({ path, format, model: taken.content, label: `${compat}, back` });
  }
});

test("the shared clusters of a compressed image", async () => {
  const raw = join(directory, "plain.raw");
  const model = new ByteModel(SIZE);
  await model.write(0, new Uint8Array(MIB).fill(7));
  await model.disk.save(raw);
  qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", raw, path);
  const taken = await take("packed", model);
  await using chain = await openChain({ file: path, format });
  await chain.node.write(5000, new Uint8Array(20_000).fill(8));
  await model.write(5000, new Uint8Array(20_000).fill(8));
  await chain.node.writeZeroes(65_536, 100_000);
  await model.zero({ offset: 65_536, length: 100_000 });
  await chain.close();
  await mustAgree({ path, format, model, label: "compressed" });
  await mustHold(taken);
  qemuImg("snapshot", "-d", "packed", path);
  assert.ok((qemuCheck(path, format)["compressed-clusters"] ?? 0) > 0);
  await mustAgree({ path, format, model, label: "compressed, without the snapshot" });
});
