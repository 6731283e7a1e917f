/**
 * The contract that every layer fulfils: a file, an image format over a file, a filter over either.
 *
 * All offsets and lengths are bytes and need no alignment. A range must lie inside [0, length): a node that
 * `grows` (a plain file) may be written past its end, every other node refuses with `invalid-argument`.
 *
 * Concurrency: any number of calls may be under way. Two that overlap and of which one writes may take effect in
 * either order, but each takes effect whole at the grain of a sector (512 bytes). What a resolved write wrote is seen
 * by every read that starts after it, and survives the death of this process; what a resolved `flush` covers survives
 * the loss of power.
 */
import type { Extent } from "./extent.ts";

export interface BlockNode extends AsyncDisposable {
  /** What the user calls it: a path or URI without credentials. For messages. */
  readonly name: string;
  /** Size in bytes as a reader sees it. */
  readonly length: number;
  readonly readOnly: boolean;
  /** Whether a write past the end makes the node longer. */
  readonly grows: boolean;
  /** The layer below, where this node's `missing` extents come from. */
  readonly backing: BlockNode | undefined;

  /**
   * Fills `target` from `offset`. The memory is the caller's again when the promise settles, by the signal's reason too: whoever stops
   * waiting for an answer sees to it that none is put there any more.
   */
  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  /**
   * Fills `target` at once where that needs no waiting: what is in the page cache, by tables that are in memory. It never goes
   * to the backing node. Absent from a node that can't do this at all.
   *
   * @returns false when it would have to wait, or would fail: then `target` holds anything, and `read` is to be called
   */
  readNow?(offset: number, target: Uint8Array): boolean;
  write(offset: number, data: Uint8Array): Promise<void>;
  /** Makes the range read as zeroes, giving space back where the node can. */
  writeZeroes(offset: number, length: number): Promise<void>;
  /** Whether `writeZeroes` would take less time than a write of as many bytes. Absent: it would not. */
  canZeroFast?(offset: number, length: number): boolean;
  /** The range is not needed any more: it reads as zeroes or as before afterwards, never as the backing file. */
  discard(offset: number, length: number): Promise<void>;
  /** Resolves when all that was resolved before the call survives the loss of power. */
  flush(): Promise<void>;
  /**
   * What this layer alone knows of a range: extents that touch, start exactly at `offset` and cover a non-empty prefix of
   * it (all of it unless there is a great number). Ask again from where they end.
   */
  extents(offset: number, length: number): Promise<Extent[]>;
  /** Changes `length`. What a larger size adds reads as zeroes. */
  resize(length: number): Promise<void>;
  /** Flushes and lets go of everything. Further calls fail with `shutdown`; a second close does nothing. */
  close(): Promise<void>;
}

/** A disk as guests use it: what an export offers. */
export interface GuestNode extends BlockNode {
  /** Fetches what of a range is missing, and resolves when it is kept. Absent where nothing can be missing. */
  cache?(offset: number, length: number, signal?: AbortSignal): Promise<void>;
}

/** What an image says of the image below it. */
export interface BackingReference {
  /** As it stands in the image: a path (absolute, or relative to the image's directory) or a URI. */
  readonly reference: string;
  /** "raw", "qcow2", "qed"; undefined when the image does not say. */
  readonly format: string | undefined;
}

/** An image that can lie over a backing file: what copy-on-read and the stream job work upon. */
export interface OverlayNode extends BlockNode {
  /** Bytes below which `populate` cannot tell local from missing: a cluster, or a subcluster of extended L2. */
  readonly grain: number;
  /** What the header says; undefined for an image that stands alone. */
  readonly backingReference: BackingReference | undefined;

  /**
   * Writes `data` where the range is still missing and nowhere else, atomically against guest writes at the grain.
   * `offset` must be a multiple of `grain`, and so must the length unless the range ends at the end of the node.
   * What it wrote may be lost when the process dies before `checkpoint`: it can be fetched again.
   *
   * @returns the number of bytes that were missing and are local now
   */
  populate(offset: number, data: Uint8Array): Promise<number>;
  /** The same with zeroes, without data where the format can say "zero". */
  populateZeroes(offset: number, length: number): Promise<number>;
  /** Hands every mapping to the kernel: what was populated before survives the death of the process. */
  checkpoint(): Promise<void>;
  /**
   * Changes the reference in the header, durably and atomically; undefined breaks the link. Everything before it is made
   * durable first. The caller has made sure that nothing that is missing would read otherwise than before.
   *
   * @param node the layer that reads go to from now on
   * @throws {StreamdiskError} `refused` when internal snapshots read through the link
   */
  changeBacking(reference: BackingReference | undefined, node: BlockNode | undefined): Promise<void>;
}

/** Whether a node can be populated. */
export function isOverlay(node: BlockNode): node is OverlayNode {
  return "populate" in node;
}
