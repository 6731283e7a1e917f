/**
 * Checks a qcow2 image: counts every reference that its metadata makes and compares with the reference counts.
 *
 * A count that is too high is a leak: wasted space. One that is too low is a corruption: the cluster could be given to somebody else.
 * The marks of ownership depend on the counts, and are looked at when these are as they will stay.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { CheckOptions, CheckResult } from "../format.ts";
import type { MappingCodec } from "../mapped/codec.ts";
import type { Geometry } from "../mapped/geometry.ts";
import type { MappingRecord } from "../mapped/mapping-log.ts";
import { Findings, type MappingFigures, ReferenceCounts, walkMapping } from "../mapped/references.ts";
import { newEntry } from "../mapped/runs.ts";
import { bitmapClusters } from "./bitmaps.ts";
import type { Qcow2Header } from "./header.ts";
import { checkOwnership } from "./ownership.ts";
import type { Refcounts } from "./refcounts.ts";
import { readSnapshotL1, readSnapshots } from "./snapshots.ts";

export interface Qcow2Image {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly header: Qcow2Header;
  /** The active L1 table, as it is on disk. */
  readonly l1: Uint8Array;
  readonly refcounts: Refcounts;
}

interface Survey {
  readonly references: ReferenceCounts;
  readonly findings: Findings;
  readonly figures: MappingFigures;
}

/** Counts every reference that is found in the metadata. */
async function survey(image: Qcow2Image, options: CheckOptions): Promise<Survey> {
  const { file, header, l1, refcounts } = image;
  const { clusterSize } = header;
  const references = new ReferenceCounts(clusterSize, file.name);
  const findings = new Findings();
  const figures: MappingFigures = { allocated: 0, fragmented: 0, compressed: 0, endOffset: 0 };
  const { signal, onProgress } = options;
  /** What may have one reference only, and L2 tables, which snapshots may share, but only as tables. */
  const alone = new ReferenceCounts(clusterSize, file.name);
  const tables = new ReferenceCounts(clusterSize, file.name);
  const count = (host: number, length: number) => {
    if (length === 0) return;
    references.add(host, length);
    alone.add(host, length);
  };
  for (const sentence of header.damage) findings.corrupt(`The header is damaged: ${sentence}`);
  count(0, clusterSize);
  count(header.l1.offset, l1.length);
  count(refcounts.table.offset, refcounts.table.length);
  for (const host of soundBlocks(image, findings)) count(host, clusterSize);

  await walkMapping({ ...image, references, tables, findings, figures, signal, onProgress });
  const snapshots = await readSnapshots(file, header);
  count(header.snapshots.offset, snapshots.length);
  for (const snapshot of snapshots.list) {
    const snapshotL1 = await readSnapshotL1(file, snapshot);
    count(snapshot.l1Offset, snapshotL1.length);
    await walkMapping({ ...image, l1: snapshotL1, references, tables, findings, signal });
  }
  for await (const { host, length } of bitmapClusters(file, header)) {
    if (host + length <= file.length) references.add(host, length);
    else findings.corrupt(`Bits of a bitmap lie at ${host}, past the end of the file at ${file.length}`);
  }
  for (const [cluster] of alone) {
    const uses = references.get(cluster);
    if (uses > 1) findings.corrupt(`Metadata at ${cluster * clusterSize} has ${uses} uses`);
  }
  for (const [cluster, uses] of tables) {
    if (references.get(cluster) > uses) findings.corrupt(`The L2 table at ${cluster * clusterSize} has other uses too`);
  }
  return { references, findings, figures };
}

/** The blocks that the refcount table points to. */
function* soundBlocks({ file, refcounts }: Qcow2Image, findings: Findings): Generator<number, void, undefined> {
  for (let region = 0; region < refcounts.regions; region++) {
    const host = refcounts.blockHost(region);
    if (host === 0) continue;
    if (refcounts.blockIsSound(region)) yield host;
    else
      findings.corrupt(
        () =>
          `Refcount block ${region} at ${host} is not aligned, past the end of the file (${file.length}), or lies where something else does`,
      );
  }
}

/** Checks, and repairs leaks if asked. The image is quiet, and nothing is dirty. */
export async function checkQcow2(image: Qcow2Image, options: CheckOptions): Promise<CheckResult> {
  const { header, refcounts, file } = image;
  const { references, findings, figures } = await survey(image, options);
  const { clusterSize } = header;
  const clusters = Math.max(Math.ceil(file.length / clusterSize), references.end);
  const leaked: number[] = [];
  let end = 0;
  await compare(refcounts, references, clusters, (cluster, count, wanted) => {
    if (count > 0) end = Math.max(end, cluster + 1);
    if (count === wanted) return;
    const numbers = `has a count of ${count}, and ${wanted} references`;
    if (count < wanted) findings.corrupt(`The cluster at ${cluster * clusterSize} ${numbers}`);
    else {
      findings.leak(`The cluster at ${cluster * clusterSize} is leaked: it ${numbers}`);
      if (options.repair !== undefined) leaked.push(cluster);
    }
  });
  // Where the metadata is damaged, what looks leaked may be what the damage cut off.
  const repairing = options.repair === "leaks" && findings.corruptions === 0;
  if (!repairing) leaked.length = 0;
  for (const cluster of leaked) await refcounts.correct(cluster, references.get(cluster));
  await checkOwnership(image, { findings, signal: options.signal, repair: repairing ? "set" : undefined });
  return {
    "check-errors": 0,
    corruptions: findings.corruptions,
    leaks: findings.leaks - leaked.length,
    "leaks-fixed": leaked.length,
    "total-clusters": Math.ceil(header.size / clusterSize),
    "allocated-clusters": figures.allocated,
    "fragmented-clusters": figures.fragmented,
    "compressed-clusters": figures.compressed,
    "image-end-offset": end * clusterSize,
    findings: findings.sentences,
  };
}

/** Visits each of the clusters [0, clusters) that has a count or a reference. */
async function compare(
  refcounts: Refcounts,
  references: ReferenceCounts,
  clusters: number,
  visit: (cluster: number, count: number, wanted: number) => void,
): Promise<void> {
  await refcounts.each(clusters, (cluster, count) => visit(cluster, count, references.get(cluster)));
  for (const [cluster, wanted] of references) if (!refcounts.isCounted(cluster)) visit(cluster, 0, wanted);
}

/**
 * Makes the counts of a dirty image what its metadata says, before anything is allocated. Clusters that `records` refer to count as
 * used: they hold acknowledged data.
 *
 * @throws {StreamdiskError} `invalid-image` when the metadata itself is damaged
 */
export async function repairRefcounts(image: Qcow2Image, records: readonly MappingRecord[]): Promise<void> {
  const { header, refcounts, file, codec } = image;
  const { references, findings } = await survey(image, {});
  if (findings.corruptions > 0) {
    throw new StreamdiskError(
      "invalid-image",
      `Could not repair '${file.name}', which was not closed cleanly: ${findings.sentences[0]} (try 'qemu-img check -r all')`,
      { node: file.name },
    );
  }
  const entry = newEntry();
  for (const { entry: bytes } of records) {
    codec.decode(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, entry);
    // One that reached the image before the crash is counted already.
    const counted = references.get(Math.floor(entry.host / header.clusterSize)) > 0;
    if (entry.host !== 0 && !counted) references.add(entry.host, header.clusterSize);
  }
  const clusters = Math.max(Math.ceil(file.length / header.clusterSize), references.end);
  const wrong: number[] = [];
  await compare(refcounts, references, clusters, (cluster, count, wanted) => {
    if (count !== wanted) wrong.push(cluster);
  });
  await refcounts.eachFrom(clusters, (cluster) => wrong.push(cluster));
  // Blocks and a larger table may have to be made on the way: not in what is in use and not counted yet.
  refcounts.keepFrom(file.grows ? clusters : references.end);
  const used = wrong.filter((cluster) => references.get(cluster) > 0);
  const free = wrong.filter((cluster) => references.get(cluster) === 0);
  for (const cluster of [...used, ...free]) await refcounts.correct(cluster, references.get(cluster));
  refcounts.keepFrom(0);
  await checkOwnership(image, { findings, repair: "all" });
}
