/**
 * What a two-level mapping looks like on disk, as far as the formats differ. QED and qcow2 share all behaviour
 * (`src/formats/mapped`) and each bring one codec.
 *
 * An L1 table is an array of 8-byte entries, each the host offset of an L2 table (0: none). An L2 table is an array of
 * entries of 8 or 16 bytes, each saying of one cluster where its bytes lie and which of them are there. A cluster has
 * `subclusters` parts (1, or 32 with extended L2), each of which is missing, data or zero; bit s of a mask speaks of part s.
 */

/** One L2 entry, decoded. Reused from call to call on the hot path: copy what must last. */
export interface ClusterEntry {
  /** Host offset of the cluster's own space, 0 when it has none. For a compressed cluster, of its first compressed byte. */
  host: number;
  /** Compressed: upper bound of the compressed bytes (whole sectors); otherwise 0. */
  compressedLength: number;
  /** Whether nobody else refers to the space, so that it may be written in place. */
  owned: boolean;
  /** Parts whose data lies at `host`, as an unsigned 32-bit mask. */
  data: number;
  /** Parts that read as zeroes, as an unsigned 32-bit mask; never a part of `data` too. */
  zero: number;
}

/** An L1 entry, decoded. */
export interface TableEntry {
  /** Host offset of the L2 table; 0: none. */
  host: number;
  owned: boolean;
}

export interface MappingCodec {
  readonly entryBytes: 8 | 16;
  readonly subclusters: 1 | 32;
  /** Whether an entry can say "zero" (all but qcow2 version 2). */
  readonly hasZero: boolean;
  /** Whether a zero cluster can keep its space (qcow2 version 3). */
  readonly zeroKeepsSpace: boolean;

  /** @throws {StreamdiskError} `invalid-image` for an entry that the specification rules out */
  decodeL1(table: DataView, index: number, into: TableEntry): void;
  /** The same, and false in place of the error: where there may be millions of such entries. */
  tryDecodeL1(table: DataView, index: number, into: TableEntry): boolean;
  encodeL1(table: DataView, index: number, entry: TableEntry): void;
  /** @throws {StreamdiskError} `invalid-image` for an entry that the specification rules out */
  decode(table: DataView, index: number, into: ClusterEntry): void;
  tryDecode(table: DataView, index: number, into: ClusterEntry): boolean;
  /** Never asked to encode a compressed cluster. */
  encode(table: DataView, index: number, entry: ClusterEntry): void;
}
