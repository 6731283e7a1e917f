/**
 * The mark of ownership (QEMU docs/interop/qcow2, bit 63 of table entries): an entry of the active mapping has it exactly when the
 * count of what it points to is one, so that a writer need not look up counts. Compressed clusters never have it.
 *
 * A mark that lacks costs a copy and no more. One that is there wrongly lets a write reach what a snapshot shares.
 */
import { Findings, ReferenceCounts, walkMapping } from "../mapped/references.ts";
import { newEntry } from "../mapped/runs.ts";
import type { Qcow2Image } from "./check.ts";

export interface OwnershipOptions {
  readonly findings: Findings;
  readonly signal?: AbortSignal | undefined;
  /** "set" gives marks that lack, once the counts are right; "all" also takes wrong ones away. What is left is a finding. */
  readonly repair?: "set" | "all" | undefined;
}

/** Compares the marks of the active mapping with the counts, and repairs them on disk and in `image.l1`. */
export async function checkOwnership(image: Qcow2Image, options: OwnershipOptions): Promise<void> {
  await checkTables(image, options);
  const { codec, geometry, file, header } = image;
  const entry = newEntry();
  await walkMapping({
    ...image,
    references: new ReferenceCounts(header.clusterSize, file.name),
    findings: new Findings(),
    signal: options.signal,
    onSlice: async (host, view, bad) => {
      const refused = new Set(bad);
      for (let index = 0; index < geometry.sliceEntries; index++) {
        if (refused.has(index)) continue;
        codec.decode(view, index, entry);
        if (entry.host === 0 || entry.compressedLength !== 0) continue;
        if (!(await mustTurn(image, options, "cluster", entry))) continue;
        entry.owned = !entry.owned;
        codec.encode(view, index, entry);
        await write(image, host, view, index, codec.entryBytes);
      }
    },
  });
}

async function checkTables(image: Qcow2Image, options: OwnershipOptions): Promise<void> {
  const { codec, l1, header, file } = image;
  const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  const table = { host: 0, owned: false };
  let last = 0;
  for (let index = 0; index < l1.length / 8; index++) {
    // What is invalid, past the end or there again was found by the walk.
    if (!codec.tryDecodeL1(view, index, table) || table.host === 0) continue;
    if (table.host === last || table.host >= file.length) continue;
    last = table.host;
    if (!(await mustTurn(image, options, "L2 table", table))) continue;
    table.owned = !table.owned;
    codec.encodeL1(view, index, table);
    await write(image, header.l1.offset, view, index, 8);
  }
}

/** Whether the mark is wrong and to be turned. */
async function mustTurn(
  { refcounts, header }: Qcow2Image,
  { findings, repair }: OwnershipOptions,
  what: string,
  { host, owned }: { readonly host: number; readonly owned: boolean },
): Promise<boolean> {
  const cluster = host / header.clusterSize;
  const count = refcounts.isCounted(cluster) ? await refcounts.get(cluster) : 0;
  if ((count === 1) === owned) return false;
  if (repair === "all" || (repair === "set" && !owned)) return true;
  findings.corrupt(`The ${what} at ${host} is ${owned ? "" : "not "}marked as owned, and its count is ${count}`);
  return false;
}

async function write(
  { file }: Qcow2Image,
  table: number,
  view: DataView,
  index: number,
  entryBytes: number,
): Promise<void> {
  const at = index * entryBytes;
  await file.write(table + at, new Uint8Array(view.buffer, view.byteOffset + at, entryBytes));
}
