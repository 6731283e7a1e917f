/**
 * Checks a QED image (QEMU docs/interop/qed_spec, "Consistency checking"): every table and cluster offset lies inside the file, is aligned
 * and referred to once. What nothing refers to is leaked.
 *
 * Leaks are given back by moving the clusters at the end of the file into the leaked places and cutting the file, which is
 * safe at every point: the copy is durable before the entry that points at it, and the entry before the cut.
 */
import { type BlockNode, isZero } from "../../block/index.ts";
import type { CheckOptions, CheckResult } from "../format.ts";
import type { MappingCodec } from "../mapped/codec.ts";
import type { Geometry } from "../mapped/geometry.ts";
import { Findings, type MappingFigures, ReferenceCounts, walkMapping } from "../mapped/references.ts";
import { newEntry } from "../mapped/runs.ts";
import { type QedHeader, qedTableBytes } from "./header.ts";

export interface QedImage {
  readonly file: BlockNode;
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly header: QedHeader;
  /** The L1 entries in memory: those that the virtual size needs. */
  readonly l1: Uint8Array;
}

/** The whole L1 table of the largest shape has a gigabyte. */
const L1_PIECE = 1024 * 1024;

/**
 * All of the L1 table on disk, piece by piece; pieces of zeroes are left out. Entries past the virtual size count too: a disk that was
 * larger once may have left tables there, and finds them when it grows again.
 *
 * @returns `at`: where in the table a piece begins, in bytes
 */
async function* l1Pieces({ file, header }: QedImage): AsyncGenerator<{ at: number; l1: Uint8Array }, void, undefined> {
  const end = qedTableBytes(header);
  for (let at = 0; at < end; at += L1_PIECE) {
    const l1 = new Uint8Array(Math.min(L1_PIECE, end - at));
    await file.read(header.l1Offset + at, l1);
    if (!isZero(l1)) yield { at, l1 };
  }
}

interface Survey {
  readonly references: ReferenceCounts;
  readonly findings: Findings;
  readonly figures: MappingFigures;
}

/**
 * @param options.repair "leaks" cuts the file to what is referred to; the caller must reopen nothing but the allocator
 */
export async function checkQed(image: QedImage, options: CheckOptions): Promise<CheckResult> {
  const survey = await surveyQed(image, options);
  const { references, findings, figures } = survey;
  const { clusterSize } = image.header;
  const total = Math.ceil(image.file.length / clusterSize);
  let used = 0;
  for (const [cluster, count] of references) {
    if (cluster < total) used++;
    if (count > 1) findings.corrupt(`The cluster at ${cluster * clusterSize} is referred to ${count} times`);
  }
  // Not one by one: a sparse file may have more clusters than could ever be looked at.
  const leaks = total - used;
  for (let cluster = 0; findings.leaks < leaks && findings.hasRoomForLeaks; cluster++) {
    if (references.get(cluster) === 0) findings.leak(`The cluster at ${cluster * clusterSize} is leaked`);
  }
  findings.leaks = leaks;
  let fixed = 0;
  if (options.repair === "leaks" && findings.leaks > 0 && findings.corruptions === 0) {
    fixed = await compact(image, references, total, findings.leaks);
  }
  return {
    "check-errors": 0,
    corruptions: findings.corruptions,
    leaks: findings.leaks - fixed,
    "leaks-fixed": fixed,
    "total-clusters": Math.ceil(image.header.imageSize / clusterSize),
    "allocated-clusters": figures.allocated,
    "fragmented-clusters": figures.fragmented,
    "compressed-clusters": 0,
    "image-end-offset": figures.endOffset,
    findings: findings.sentences,
  };
}

async function surveyQed(image: QedImage, options: CheckOptions): Promise<Survey> {
  const { file, header } = image;
  const references = new ReferenceCounts(header.clusterSize, file.name);
  const findings = new Findings();
  const figures: MappingFigures = { allocated: 0, fragmented: 0, compressed: 0, endOffset: 0 };
  references.add(0, header.headerClusters * header.clusterSize);
  references.add(header.l1Offset, qedTableBytes(header));
  figures.endOffset = header.l1Offset + qedTableBytes(header);
  for await (const { at, l1 } of l1Pieces(image)) {
    const onProgress = (part: number) => options.onProgress?.((at + part * l1.length) / qedTableBytes(header));
    await walkMapping({ ...image, l1, references, findings, figures, signal: options.signal, onProgress });
  }
  return { references, findings, figures };
}

/**
 * Repairs an image that was not closed: entries that cannot be true become missing, as QEMU does. They come from a write of the
 * mapping that overtook its data before power was lost, and were never acknowledged by a flush.
 *
 * @returns sentences about what was dropped
 */
export async function dropInvalidEntries(image: QedImage): Promise<readonly string[]> {
  const { file, header } = image;
  const references = new ReferenceCounts(header.clusterSize, file.name);
  const findings = new Findings();
  let changed = false;
  for await (const { at, l1 } of l1Pieces(image)) {
    let bad = false;
    await walkMapping({
      ...image,
      l1,
      references,
      findings,
      onSlice: async (host, view, indexes) => {
        if (indexes.length === 0) return;
        changed = true;
        for (const index of indexes) view.setBigUint64(index * 8, 0n);
        await file.write(host, new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
      },
      onBadTable: (l1Index) => {
        bad = true;
        l1.fill(0, l1Index * 8, l1Index * 8 + 8);
        image.l1.fill(0, at + l1Index * 8, at + l1Index * 8 + 8);
      },
    });
    changed ||= bad;
    if (bad) await file.write(header.l1Offset + at, l1);
  }
  if (changed) await file.flush();
  return findings.sentences;
}

/** Moves clusters from the end of the file into leaked places, then cuts the file. Returns how many leaks went. */
async function compact(image: QedImage, references: ReferenceCounts, total: number, leaks: number): Promise<number> {
  const { file } = image;
  const { clusterSize } = image.header;
  // No cluster moves but from the end that the file loses.
  const places = await dataClusters(image, (total - leaks) * clusterSize);
  const used = Float64Array.from(references, ([cluster]) => cluster).sort();
  let top = used.length;
  let hole = 0;
  let end = total;
  const bytes = new Uint8Array(clusterSize);
  const updates: { at: number; host: number }[] = [];
  while (true) {
    // Everything below `hole` is in use: places that were filled here too, of which `references` knows nothing.
    while (hole < end && references.get(hole) !== 0) hole++;
    end = Math.max(hole, (used[top - 1] as number) + 1);
    const last = (end - 1) * clusterSize;
    const place = places.get(last);
    // Tables are left where they are: what lies before one stays leaked until the table goes.
    if (hole >= end || place === undefined) break;
    await file.read(last, bytes);
    await file.write(hole * clusterSize, bytes);
    updates.push({ at: place, host: hole * clusterSize });
    hole++;
    top--;
    // What was moved is no use of its old place: the search for holes must not step over it.
    end = last / clusterSize;
  }
  if (updates.length > 0) {
    await file.flush();
    const entry = { ...newEntry(), owned: true, data: 1 };
    const cell = new Uint8Array(8);
    for (const { at, host } of updates) {
      image.codec.encode(new DataView(cell.buffer), 0, { ...entry, host });
      await file.write(at, cell);
    }
    await file.flush();
  }
  await file.resize(end * clusterSize);
  await file.flush();
  return total - end;
}

/** Where the entry lies that refers to each data cluster, for those from `start` on. */
async function dataClusters(image: QedImage, start: number): Promise<Map<number, number>> {
  const places = new Map<number, number>();
  const entry = newEntry();
  const { file, codec, geometry } = image;
  for await (const { l1 } of l1Pieces(image)) {
    await walkMapping({
      ...image,
      l1,
      references: new ReferenceCounts(image.header.clusterSize, file.name),
      findings: new Findings(),
      onSlice: (slice, view) => {
        for (let index = 0; index < geometry.sliceEntries; index++) {
          codec.decode(view, index, entry);
          if (entry.data !== 0 && entry.host >= start) places.set(entry.host, slice + index * 8);
        }
      },
    });
  }
  return places;
}
