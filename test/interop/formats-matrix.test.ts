/**
 * Every shape of image, worked upon by qemu-io and by us in turn: after each turn the other side reads exactly what was written,
 * sees the same map, and `qemu-img check` finds nothing.
 *
 * Overlays lie over bases that are shorter, longer and of other formats. What a cell holds is in a model beside it.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openChain } from "../../src/chain/index.ts";
import { createFormat, type FormatName } from "../../src/formats/index.ts";
import { qemuCannotOpen } from "../../src/formats/qed/header.ts";
import { openFile } from "../../src/sources/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel, type Range } from "../support/byte-model.ts";
import { type Playground, peerChanges, weChange, windowsOf } from "../support/disk-actions.ts";
import { ourMap, peerDoes, qemuMap, qemuVersion } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng, sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-matrix-"));
after(() => rmSync(directory, { recursive: true }));

const KIB = 1024;
const MIB = 1024 * KIB;

interface Shape {
  readonly format: FormatName;
  readonly clusterSize: number;
  /** Guest bytes that one L2 table speaks of. */
  readonly span: number;
  /** As after `-o`. */
  readonly options: Readonly<Record<string, string>>;
}

type Base = "none" | "equal raw" | "shorter raw" | "longer qcow2" | "shorter qed";

interface Cell {
  readonly shape: Shape;
  readonly base: Base;
  readonly madeBy: "us" | "qemu-img";
}

function qcow2(clusterSize: number, others: Readonly<Record<string, string>>): Shape {
  const entryBytes = others["extended_l2"] === "on" ? 16 : 8;
  const options = { cluster_size: String(clusterSize), ...others };
  return { format: "qcow2", clusterSize, span: (clusterSize / entryBytes) * clusterSize, options };
}

function shapes(): Shape[] {
  const all: Shape[] = [];
  for (const clusterSize of [512, 4 * KIB, 64 * KIB, 2 * MIB]) {
    all.push(qcow2(clusterSize, { compat: "0.10" }), qcow2(clusterSize, { compat: "1.1" }));
    all.push(qcow2(clusterSize, { compat: "1.1", lazy_refcounts: "on" }));
  }
  for (const bits of [1, 2, 4, 8, 32, 64]) {
    for (const clusterSize of [512, 64 * KIB]) all.push(qcow2(clusterSize, { refcount_bits: String(bits) }));
  }
  for (const clusterSize of [16 * KIB, 64 * KIB, 2 * MIB]) all.push(qcow2(clusterSize, { extended_l2: "on" }));
  for (const clusterSize of [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB]) {
    for (const tableClusters of [2, 4, 16]) {
      if (qemuCannotOpen(clusterSize, tableClusters) !== undefined) continue;
      const options = { cluster_size: String(clusterSize), table_size: String(tableClusters) };
      all.push({ format: "qed", clusterSize, span: ((clusterSize * tableClusters) / 8) * clusterSize, options });
    }
  }
  return all;
}

const cells: Cell[] = shapes().flatMap((shape, index) =>
  (["none", "equal raw", "shorter raw", "longer qcow2", "shorter qed"] as const).map((base, place) => ({
    shape,
    base,
    madeBy: (index + place) % 2 === 0 ? "us" : "qemu-img",
  })),
);

test(`the peer is QEMU ${qemuVersion()}`, () => assert.match(qemuVersion(), /^\d+\.\d+/));

for (const cell of sample("formats matrix", cells, 40)) {
  const { shape, base, madeBy } = cell;
  const said = Object.entries(shape.options).map(([name, value]) => `${name}=${value}`);
  const label = `${shape.format} ${said.join(",")}, base: ${base}, made by ${madeBy}`;
  test(`${label} (seed ${seed})`, async () => {
    const home = mkdtempSync(join(directory, "cell-"));
    await runCell(cell, label, home);
    rmSync(home, { recursive: true });
  });
}

/** QEMU 7.2 counts the bytes of a QED table's span in 32 bits: with more than that `map` and `compare` abort. */
const QED_SPAN_LIMIT = 2 ** 30;

/** A size that is no multiple of the cluster, past one table where that is not absurdly far. */
function sizeOf({ format, span, clusterSize }: Shape): number {
  const far = format === "qed" ? QED_SPAN_LIMIT : 600 * 2 ** 30;
  return (span <= far ? span : 0) + Math.max(2 * MIB, 4 * clusterSize) + 3 * 512;
}

async function runCell(cell: Cell, label: string, home: string): Promise<void> {
  const { shape } = cell;
  const { format, clusterSize } = shape;
  const random = rng(label);
  const path = join(home, `overlay.${format}`);
  const size = sizeOf(shape);
  const windows = windowsOf(size, shape.span, clusterSize);
  const ground: Playground = { random, windows, clusterSize, longest: Math.max(128 * KIB, 2 * clusterSize) };
  const model = new ByteModel(size);
  // QEMU 7.2 fills the rest of a QED cluster of zeroes from the base when it writes to part of it.
  const theirGround = format === "qed" && cell.base !== "none" ? { ...ground, unit: clusterSize } : ground;
  const base = await makeBase(cell, home, size, ground);
  if (base !== undefined) await model.takeFrom(base.model);
  await create(cell, path, size, base);

  for (let round = 0; round < 2; round++) {
    const discarded = await peerChanges(path, format, model, theirGround, 12);
    await using chain = await openChain({ file: path, format });
    for (const range of discarded) await model.discarded(range, chain.node);
    await model.verify(chain.node, windows, `${label}, round ${round}, theirs here`);
    assert.deepEqual(await ourMap(chain.node), qemuMap(path, format, "-U"), `${label}: map of theirs`);

    await weChange(chain.node, model, ground, 25);
    if (round === 1) await resizeTwice(chain.node, model, size, ground);
    await model.verify(chain.node, windows, `${label}, round ${round}, ours here`);
    await chain.close();

    await mustAgree({ path, format, model, windows, label: `${label}, round ${round}` });
  }
}

interface MadeBase {
  readonly path: string;
  readonly format: FormatName;
  readonly model: ByteModel;
}

/** A base with something in the same places, made by the peer. */
async function makeBase({ base }: Cell, home: string, size: number, ground: Playground): Promise<MadeBase | undefined> {
  if (base === "none") return undefined;
  const format = base.endsWith("raw") ? "raw" : base.endsWith("qcow2") ? "qcow2" : "qed";
  const middle = ground.windows.at(-1) as Range;
  // A shorter base ends in the midst of the last window, a longer one goes on for some clusters.
  const wanted = base.startsWith("shorter")
    ? middle.offset + Math.floor(middle.length / 2) + 777
    : size + (base.startsWith("longer") ? 3 * ground.clusterSize : 0);
  const length = Math.ceil(wanted / 512) * 512;
  const path = join(home, `base.${format}`);
  qemuImg(
    "create",
    "-q",
    "-f",
    format,
    ...(format === "qed" ? ["-o", "cluster_size=1M,table_size=4"] : []),
    path,
    String(length),
  );
  const model = new ByteModel(length);
  const windows = ground.windows
    .map(({ offset, length: wide }) => ({ offset, length: Math.min(wide + 3 * ground.clusterSize, length - offset) }))
    .filter((window) => window.length > 0);
  await peerChanges(path, format, model, { ...ground, windows }, 12).then((discarded) =>
    settle(path, format, model, discarded),
  );
  // The end of a shorter base, and what a longer one has past the overlay, are not zeroes.
  const at = Math.max(0, Math.min(size, length) - 5000);
  peerDoes(path, format, [`write -P 99 ${at} ${length - at}`]);
  await model.write(at, new Uint8Array(length - at).fill(99));
  return { path, format, model };
}

async function settle(path: string, format: FormatName, model: ByteModel, discarded: readonly Range[]): Promise<void> {
  await using chain = await openChain({ file: path, format, readOnly: true });
  for (const range of discarded) await model.discarded(range, chain.node);
}

async function create(cell: Cell, path: string, size: number, base: MadeBase | undefined): Promise<void> {
  const { format, options } = cell.shape;
  if (cell.madeBy === "us") {
    await using file = await openFile(path, { readOnly: false, create: true });
    const backing = base && { reference: base.path, format: base.format };
    await createFormat(format, file, { size, options, ...(backing && { backing }) });
    return;
  }
  const said = Object.entries(options).map(([name, value]) => `${name}=${value}`);
  const backing = base === undefined ? [] : ["-b", base.path, "-F", base.format];
  qemuImg("create", "-q", "-f", format, "-o", said.join(","), ...backing, path, String(size));
}

/** Cuts the disk and lets it grow again, past its old size: what comes back must read as zeroes. */
async function resizeTwice(
  node: Awaited<ReturnType<typeof openChain>>["node"],
  model: ByteModel,
  size: number,
  { clusterSize }: Playground,
): Promise<void> {
  const cut = Math.floor((size - 1.5 * clusterSize - 2000) / 512) * 512;
  for (const length of [cut, size + 2 * clusterSize + 512]) {
    await node.resize(length);
    await model.resize(length);
  }
}
