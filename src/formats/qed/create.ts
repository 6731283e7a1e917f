import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type CreatedFormat, CreationOptions, creationSize } from "../create-options.ts";
import type { CreateFormatOptions } from "../format.ts";
import {
  isQedClusterSize,
  isQedTableSize,
  QED_MAX_CLUSTER,
  QED_MAX_TABLE_CLUSTERS,
  QED_MIN_CLUSTER,
  type QedHeader,
  qedTableBytes,
  qemuCannotOpen,
} from "./header.ts";
import { writeQedHeader } from "./header-file.ts";
import { checkQedSize, rewriteHeader, setBacking } from "./header-update.ts";

/** qemu-img's defaults. */
const CLUSTER_SIZE = 64 * 1024;
const TABLE_CLUSTERS = 4;

/**
 * Makes an empty QED image in an empty file, durably: one header cluster, then an L1 table of zeroes (a hole). The header comes
 * last, so that a crash leaves either an image or no image.
 *
 * Options, as in qemu-img: `cluster_size` (4K to 64M, default 64K), `table_size` (clusters in a table, 1 to 16, default 4).
 *
 * QED keeps no format of a backing file but "raw": any other is **not stored**, and readers look at the backing file's first
 * bytes. The result has the reference as it will be read.
 *
 * @throws {StreamdiskError} `invalid-argument` for options or a size that cannot be, `exists` for a file that is not
 * empty, `unsupported` for one that cannot grow
 */
export async function createQed(file: BlockNode, options: CreateFormatOptions): Promise<CreatedFormat> {
  const values = new CreationOptions("qed", options.options, ["cluster_size", "table_size"]);
  const clusterSize = values.number("cluster_size", CLUSTER_SIZE);
  const tableClusters = values.number("table_size", TABLE_CLUSTERS);
  checkShape(clusterSize, tableClusters);
  const size = creationSize(options.size, file.name);
  checkQedSize(size, clusterSize, tableClusters, file.name);

  const empty: QedHeader = {
    clusterSize,
    tableClusters,
    headerClusters: 1,
    l1Offset: clusterSize,
    imageSize: size,
    needCheck: false,
    backingName: undefined,
    backingIsRaw: false,
    compatFeatures: 0n,
    autoclearFeatures: 0n,
  };
  const update = options.backing === undefined ? rewriteHeader(empty) : setBacking(empty, options.backing, file.name);
  checkFile(file);

  await file.resize(clusterSize + qedTableBytes(empty));
  const header = await writeQedHeader(file, update);

  const refused = qemuCannotOpen(clusterSize, tableClusters);
  return {
    size,
    backing: options.backing && { ...options.backing, format: header.backingIsRaw ? "raw" : undefined },
    warnings: refused === undefined ? [] : [`${refused}; '${file.name}' can be used only here`],
  };
}

function checkShape(clusterSize: number, tableClusters: number): void {
  if (!isQedClusterSize(clusterSize)) {
    throw new StreamdiskError(
      "invalid-argument",
      `Option 'cluster_size' for qed cannot be ${clusterSize}: it is a power of two from ${QED_MIN_CLUSTER} to ${QED_MAX_CLUSTER}`,
    );
  }
  if (!isQedTableSize(tableClusters)) {
    throw new StreamdiskError(
      "invalid-argument",
      `Option 'table_size' for qed cannot be ${tableClusters}: it is a power of two from 1 to ${QED_MAX_TABLE_CLUSTERS} clusters`,
    );
  }
}

function checkFile(file: BlockNode): void {
  if (!file.grows) {
    throw new StreamdiskError("unsupported", `'${file.name}' cannot hold a QED image: it has a fixed size`, {
      node: file.name,
    });
  }
  if (file.length !== 0) {
    throw new StreamdiskError("exists", `'${file.name}' is not empty: it has ${file.length} bytes`, {
      node: file.name,
    });
  }
}
