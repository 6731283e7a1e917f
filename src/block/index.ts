export { type Clock, systemClock } from "./clock.ts";
export { dataRuns } from "./data-runs.ts";
export type { Extent, ExtentKind } from "./extent.ts";
export { letGo } from "./let-go.ts";
export { type BackingReference, type BlockNode, isOverlay, type OverlayNode } from "./node.ts";
export { RangeLock, type RangeLockHandle } from "./range-lock.ts";
export { validateOpen, validateRange, validateWritable } from "./validate.ts";
export { chainExtents, layerExtents } from "./walk.ts";
export { isZero } from "./zero-test.ts";
