/**
 * What the stream job needs of a disk, whoever owns it: an overlay that this process has open (`overlayTarget`), or one that
 * belongs to a running hypervisor. The job knows nothing else of either.
 */

/**
 * - `local`: data in the image itself
 * - `zero`: known to read as zeroes without the backing file, now and after the link is broken
 * - `base`: left to the base for good
 * - `fetch`: data below, to be copied
 * - `clear`: zeroes above the base, to be written as such or the base would show through
 */
export type StreamExtentKind = "local" | "zero" | "base" | "fetch" | "clear";

/** A run of bytes of one kind. Those to be fetched or cleared begin and end at the grain or at the end of the disk. */
export interface StreamExtent {
  readonly offset: number;
  readonly length: number;
  readonly kind: StreamExtentKind;
}

/** What became of a range: bytes that were missing and are data or zeroes now. */
export interface Populated {
  readonly data: number;
  readonly zero: number;
}

export interface StreamTarget {
  /** For messages. */
  readonly name: string;
  /** Virtual size in bytes. */
  readonly length: number;
  /** Ranges are cut at multiples of this. */
  readonly grain: number;
  /** What a range needs: in order, touching, covering all of it. `offset` is a multiple of the grain. */
  extents(offset: number, length: number): AsyncIterable<StreamExtent>;
  /** Copies what is still missing of a range up from below. Many at a time. */
  populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated>;
  /** Writes zeroes where a range is still missing. */
  clear(offset: number, length: number): Promise<Populated>;
  /** What was populated before survives the death of the process. */
  checkpoint(): Promise<void>;
  /** What was populated before survives the loss of power. */
  flush(): Promise<void>;
  /** Breaks the link to what is below, or links the disk to the base; all that was populated is durable before. */
  finish(): Promise<void>;
}
