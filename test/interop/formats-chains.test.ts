/**
 * Chains: twelve images deep and of every format, each of its own size and cluster size, written by both sides; and what QEMU's tools
 * do to chains that we wrote: repair, rebase, commit.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openChain } from "../../src/chain/index.ts";
import { createFormat, type FormatName } from "../../src/formats/index.ts";
import { openFile } from "../../src/sources/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel } from "../support/byte-model.ts";
import { type Playground, peerChanges, weChange, windowsOf } from "../support/disk-actions.ts";
import { between, oneOf, type Random } from "../support/draw.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-chains-"));
after(() => rmSync(directory, { recursive: true }));

const KIB = 1024;
const MIB = 1024 * KIB;
const DEPTH = 12;

interface Layer {
  readonly path: string;
  readonly format: FormatName;
  readonly model: ByteModel;
}

interface Shape {
  readonly format: FormatName;
  readonly clusterSize: number;
  readonly options: Readonly<Record<string, string>>;
}

const SHAPES: readonly Shape[] = [
  { format: "qcow2", clusterSize: 512, options: { cluster_size: "512" } },
  { format: "qcow2", clusterSize: 4 * KIB, options: { cluster_size: "4K", compat: "v2" } },
  { format: "qcow2", clusterSize: 64 * KIB, options: { lazy_refcounts: "on" } },
  { format: "qcow2", clusterSize: 16 * KIB, options: { cluster_size: "16K", extended_l2: "on" } },
  { format: "qcow2", clusterSize: 2 * MIB, options: { cluster_size: "2M" } },
  { format: "qed", clusterSize: 4 * KIB, options: { cluster_size: "4K", table_size: "2" } },
  { format: "qed", clusterSize: 64 * KIB, options: {} },
];

function ground(random: Random, length: number, clusterSize: number): Playground {
  return { random, windows: windowsOf(length, length / 2, clusterSize), clusterSize, longest: 100 * KIB };
}

/** Shorter than the layer below, or longer. */
function drawSize(random: Random): number {
  return between(random, 3 * 2 * KIB, 5 * 2 * KIB) * 512;
}

/** One more layer over the last, with a few writes by both sides. */
async function addLayer(layers: Layer[], shape: Shape, random: Random, size = drawSize(random)): Promise<void> {
  const below = layers.at(-1) as Layer;
  const { format, clusterSize } = shape;
  const path = join(directory, `${layers.length}.${format}`);
  const model = new ByteModel(size);
  await model.takeFrom(below.model);
  await using file = await openFile(path, { readOnly: false, create: true });
  const backing = { reference: below.path, format: below.format };
  await createFormat(format, file, { size, options: shape.options, backing });
  await file.close();
  const playground = ground(random, size, clusterSize);
  // QEMU 7.2 fills the rest of a QED cluster of zeroes from the base when it writes to part of it.
  const theirs = format === "qed" ? { ...playground, unit: clusterSize } : playground;
  const discarded = await peerChanges(path, format, model, theirs, 4);
  await using chain = await openChain({ file: path, format });
  for (const range of discarded) await model.discarded(range, chain.node);
  await weChange(chain.node, model, playground, 5);
  await chain.close();
  layers.push({ path, format, model });
}

async function makeBottom(random: Random): Promise<Layer> {
  const path = join(directory, "0.raw");
  const model = new ByteModel(4 * MIB);
  qemuImg("create", "-q", "-f", "raw", path, String(4 * MIB));
  const discarded = await peerChanges(path, "raw", model, ground(random, 4 * MIB, 4 * KIB), 10);
  await using chain = await openChain({ file: path, format: "raw", readOnly: true });
  for (const range of discarded) await model.discarded(range, chain.node);
  return { path, format: "raw", model };
}

for (let index = 0; index < pick(1, 20); index++) {
  test(`${DEPTH} images in a chain, number ${index} (seed ${seed})`, async () => {
    const random = rng(`chain ${index}`);
    const layers = [await makeBottom(random)];
    while (layers.length < DEPTH) await addLayer(layers, oneOf(random, SHAPES), random);
    for (const layer of [layers[4], layers[8], layers.at(-1)] as Layer[])
      await mustAgree({ ...layer, label: layer.path });
    await using chain = await openChain({ file: (layers.at(-1) as Layer).path, readOnly: true });
    assert.equal(chain.layers.length, DEPTH);
    for (const { path } of layers) rmSync(path);
  });
}

for (const shape of SHAPES) {
  const { format, options } = shape;
  test(`QEMU's tools on ${format} ${JSON.stringify(options)} that we wrote (seed ${seed})`, async () => {
    const random = rng(`tools ${format} ${JSON.stringify(options)}`);
    const layers = [await makeBottom(random)];
    // QEMU 7.2 cannot make a QED image larger in a commit.
    await addLayer(layers, shape, random, 5 * MIB - 512);
    await addLayer(layers, shape, random, 5 * MIB - 512);
    const [, middle, top] = layers as [Layer, Layer, Layer];
    // There is nothing to repair, and a repair changes nothing.
    assert.match(qemuImg("check", "-f", format, "-r", "all", top.path), /No errors were found/);
    await mustAgree({ ...top, label: "after check -r all" });

    qemuImg("commit", "-q", "-f", format, "-d", top.path);
    const committed = top.model;
    await mustAgree({ path: middle.path, format, model: committed, label: "after commit" });

    qemuImg("rebase", "-f", format, "-b", "", middle.path);
    qemuCheck(middle.path, format);
    await mustAgree({ path: middle.path, format, model: committed, label: "after rebase" });
    // We go on with it.
    await using chain = await openChain({ file: middle.path, format });
    assert.equal(chain.layers.length, 1);
    await weChange(chain.node, committed, ground(random, committed.length, shape.clusterSize), 5);
    await chain.close();
    await mustAgree({ path: middle.path, format, model: committed, label: "after more of ours" });
    for (const { path } of layers) rmSync(path);
  });
}
