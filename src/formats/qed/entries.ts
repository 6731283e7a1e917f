/**
 * QED's table entries (QEMU docs/interop/qed_spec, "Tables"): 64-bit little-endian host offsets, multiples of the cluster
 * size. 0 is missing in either table, 1 is a cluster of zeroes in an L2 table. Clusters have one reference: what has space
 * owns it. Pure.
 */
import { StreamdiskError } from "../../errors/index.ts";
import type { ClusterEntry, MappingCodec, TableEntry } from "../mapped/codec.ts";

const HIGH = 2 ** 32;
/** Above this in the upper half an offset is not exact in a number, and past the end of any file. */
const MAX_HIGH = 2 ** 21 - 1;
const ZERO_CLUSTER = 1;

/**
 * The codec of one image.
 *
 * @param shape.tableBytes size of an L2 table
 * @param shape.name how messages call the image
 */
export function qedCodec(shape: { clusterSize: number; tableBytes: number; name: string }): MappingCodec {
  const { clusterSize, tableBytes, name } = shape;
  const offsetMask = clusterSize - 1;

  /** The offset of something of `size` bytes; -1 for what is none. */
  function host(table: DataView, index: number, size: number): number {
    const low = table.getUint32(index * 8, true);
    const high = table.getUint32(index * 8 + 4, true);
    const offset = high * HIGH + low;
    const valid = (low & offsetMask) === 0 && high <= MAX_HIGH && offset + size <= Number.MAX_SAFE_INTEGER;
    return valid ? offset : -1;
  }

  function tryDecodeL1(table: DataView, index: number, into: TableEntry): boolean {
    into.host = host(table, index, tableBytes);
    into.owned = true;
    return into.host >= 0;
  }

  function tryDecode(table: DataView, index: number, into: ClusterEntry): boolean {
    const zero = table.getUint32(index * 8, true) === ZERO_CLUSTER && table.getUint32(index * 8 + 4, true) === 0;
    into.host = zero ? 0 : host(table, index, clusterSize);
    into.compressedLength = 0;
    into.owned = true;
    into.data = into.host === 0 ? 0 : 1;
    into.zero = zero ? 1 : 0;
    return into.host >= 0;
  }

  function badEntry(table: DataView, index: number, what: string): StreamdiskError {
    const value = table.getBigUint64(index * 8, true).toString(16);
    return new StreamdiskError(
      "invalid-image",
      `'${name}' is damaged: the ${what} entry ${index} is 0x${value}, which is no offset in clusters of ${clusterSize} bytes; run check`,
      { node: name },
    );
  }

  function put(table: DataView, index: number, value: number): void {
    table.setUint32(index * 8, value >>> 0, true);
    table.setUint32(index * 8 + 4, Math.floor(value / HIGH), true);
  }

  return {
    entryBytes: 8,
    subclusters: 1,
    hasZero: true,
    zeroKeepsSpace: false,

    tryDecodeL1,
    tryDecode,

    decodeL1(table: DataView, index: number, into: TableEntry): void {
      if (!tryDecodeL1(table, index, into)) throw badEntry(table, index, "L1");
    },

    encodeL1(table: DataView, index: number, entry: TableEntry): void {
      put(table, index, entry.host);
    },

    decode(table: DataView, index: number, into: ClusterEntry): void {
      if (!tryDecode(table, index, into)) throw badEntry(table, index, "L2");
    },

    encode(table: DataView, index: number, entry: ClusterEntry): void {
      if (entry.data !== 0) put(table, index, entry.host);
      else put(table, index, entry.zero !== 0 ? ZERO_CLUSTER : 0);
    },
  };
}
