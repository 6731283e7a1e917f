/** What `info` shows of a qcow2 image, under the names of qemu-img's JSON. Pure. */
import type { FormatDetails } from "../format.ts";
import type { Bitmap } from "./bitmaps.ts";
import { compressionType, hasExtendedL2, hasLazyRefcounts, isCorrupt, isDirty, type Qcow2Header } from "./header.ts";
import type { Snapshot } from "./snapshots.ts";

export function describeQcow2(
  header: Qcow2Header,
  snapshots: readonly Snapshot[],
  bitmaps: readonly Bitmap[],
): FormatDetails {
  const shape = { "compression-type": compressionType(header), "refcount-bits": 2 ** header.refcountOrder };
  const data =
    header.version === 2
      ? { compat: "0.10", ...shape }
      : {
          compat: "1.1",
          ...shape,
          "lazy-refcounts": hasLazyRefcounts(header),
          corrupt: isCorrupt(header),
          "extended-l2": hasExtendedL2(header),
          ...(bitmaps.length === 0
            ? {}
            : { bitmaps: bitmaps.map(({ flags, name, granularity }) => ({ flags, name, granularity })) }),
        };
  return {
    "dirty-flag": isDirty(header),
    "cluster-size": header.clusterSize,
    ...(snapshots.length === 0 ? {} : { snapshots: snapshots.map(({ details }) => details) }),
    "format-specific": { type: "qcow2", data },
  };
}
