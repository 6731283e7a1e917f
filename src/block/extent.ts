/** `missing`: this layer has nothing; the backing file decides, and without one it reads as zeroes. */
export type ExtentKind = "data" | "zero" | "missing";

/** A run of bytes of one kind. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly kind: ExtentKind;
  /** The layer that answers, counted from the node that was asked: 0 is that node itself. */
  readonly depth: number;
  /** Where the bytes lie in the image file, when they lie there as they are, without a gap. */
  readonly hostOffset?: number;
  /** Whether the bytes are compressed in the image file. */
  readonly compressed?: boolean;
}
