/**
 * Replay of the log of acknowledged mappings (ADR 1), when an image is opened that was not closed. Whatever the records refer to has been
 * kept from being allocated before.
 */
import type { MappingCodec } from "./codec.ts";
import type { Geometry } from "./geometry.ts";
import type { MappingRecord } from "./mapping-log.ts";
import { newEntry } from "./runs.ts";
import type { MappingTables } from "./tables.ts";

export interface Replayable {
  readonly tables: MappingTables;
  readonly geometry: Geometry;
  readonly codec: MappingCodec;
}

/** Sets each record's entry; what the mapping referred to before is given back. */
export async function replay(
  { tables, geometry, codec }: Replayable,
  records: readonly MappingRecord[],
): Promise<void> {
  const before = newEntry();
  const after = newEntry();
  for (const { cluster, entry } of records) {
    const slice = await tables.forWrite(Math.floor(cluster / geometry.sliceEntries));
    const at = cluster % geometry.sliceEntries;
    codec.decode(slice.view, at, before);
    slice.bytes.set(entry, at * codec.entryBytes);
    codec.decode(slice.view, at, after);
    tables.touch(slice, at);
    if (before.host !== 0 && before.host !== after.host) {
      tables.free(before.host, before.compressedLength || geometry.clusterSize);
    }
  }
}
