/**
 * What every image format offers beside the block contract. A format is given an open file and returns a node over it; it
 * finds no files, follows no references by itself and takes no locks: `src/chain` does.
 *
 * A format node owns its file: closing it closes the file. Its backing node is the chain's to close.
 */
import type { BackingReference, BlockNode, OverlayNode } from "../block/index.ts";
import type { MappingLog } from "./mapped/mapping-log.ts";

export const FORMAT_NAMES = ["raw", "qcow2", "qed"] as const;
export type FormatName = (typeof FORMAT_NAMES)[number];

/** How to open an image. */
export interface OpenFormatOptions {
  readonly readOnly: boolean;
  /** Opens what the header names. Absent: the link is not followed, and reading what is missing fails. */
  readonly openBacking?: (reference: BackingReference) => Promise<BlockNode>;
  /**
   * Keeps acknowledged mappings over the death of this process (ADR 1). Absent: each write that allocates waits until
   * its mapping is in the kernel.
   */
  readonly log?: MappingLog;
  /** Opens for `check`: a damaged image opens as far as it can be read, and a dirty one is not repaired. */
  readonly forCheck?: boolean;
}

/** What every opened image can say of itself. */
export interface FormatNode extends BlockNode {
  readonly format: FormatName;
  /** The file that the image lies in. */
  readonly file: BlockNode;
  /** Undefined for raw. */
  readonly clusterSize: number | undefined;
  /** What its user should know, each a sentence: bitmaps that become invalid, a format that was guessed. */
  readonly warnings: readonly string[];
  /** Header fields for `info`, by the names of qemu-img's JSON. */
  describe(): FormatDetails;
  /** Compares what the metadata says with what it refers to; see {@link CheckResult}. */
  check(options?: CheckOptions): Promise<CheckResult>;
}

/** An opened image of a format with a mapping: qcow2, QED. */
export interface MappedFormatNode extends FormatNode, OverlayNode {}

/** Part of qemu-img's `info --output=json`. */
export interface FormatDetails {
  readonly "dirty-flag": boolean;
  readonly "cluster-size"?: number;
  /** Internal snapshots, under qemu-img's names. */
  readonly snapshots?: readonly SnapshotDetails[];
  readonly "format-specific"?: { readonly type: FormatName; readonly data: Readonly<Record<string, unknown>> };
}

export interface SnapshotDetails {
  readonly id: string;
  readonly name: string;
  readonly "vm-state-size": number;
  readonly "date-sec": number;
  readonly "date-nsec": number;
  readonly "vm-clock-sec": number;
  readonly "vm-clock-nsec": number;
  readonly icount?: number;
}

export interface CheckOptions {
  /** Gives leaked clusters back. Nothing else is changed. */
  readonly repair?: "leaks";
  /** Called now and then with a fraction in [0, 1]. */
  readonly onProgress?: (fraction: number) => void;
  readonly signal?: AbortSignal;
}

/** qemu-img's `check --output=json`, by its names. */
export interface CheckResult {
  readonly "check-errors": number;
  /** References that lose data or may: left alone by `repair: "leaks"`. */
  readonly corruptions: number;
  /** Clusters that nothing refers to: wasted space, harmless. */
  readonly leaks: number;
  readonly "leaks-fixed": number;
  readonly "total-clusters": number;
  readonly "allocated-clusters": number;
  readonly "fragmented-clusters": number;
  readonly "compressed-clusters": number;
  readonly "image-end-offset": number;
  /** The first findings, one sentence each (at most 100). */
  readonly findings: readonly string[];
}

/** How to make a new image in an empty file. */
export interface CreateFormatOptions {
  /** Virtual size in bytes. */
  readonly size: number;
  readonly backing?: BackingReference;
  /** Names and values as after `qemu-img create -o`; unknown ones are refused by name. */
  readonly options?: Readonly<Record<string, string>>;
}
