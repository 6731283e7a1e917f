/**
 * The library's face.
 *
 * @module
 */
export type { BackingReference, BlockNode, Extent, ExtentKind, OverlayNode } from "./block/index.ts";
export type { ChainLayer } from "./chain/index.ts";
export {
  type DiskInfo,
  type LoadSample,
  type MapPage,
  type MapPart,
  type ServeDiskOptions,
  type ServedDisk,
  type SourceState,
  type StreamSpec,
  serveDisk,
} from "./engine/index.ts";
export { ERROR_TABLE, type ErrorCode, type ErrorContext, StreamdiskError } from "./errors/index.ts";
export type { KnownSource, SourcePolicy } from "./filters/index.ts";
export type { CheckResult, FormatName, FormatNode } from "./formats/index.ts";
export { unixTransport } from "./host/index.ts";
export {
  type CheckImageOptions,
  type CompareImagesOptions,
  type Comparison,
  type ConvertImageOptions,
  type ConvertProgress,
  type ConvertResult,
  type CreatedImage,
  type CreateImageOptions,
  checkImage,
  compareImages,
  convertImage,
  createImage,
  type Image,
  type ImageCheck,
  type ImageInfo,
  type ImageOptions,
  imageChainInfo,
  imageInfo,
  imageMap,
  type MapEntry,
  type OpenImageOptions,
  openImage,
  type RebaseImageOptions,
  type RebaseResult,
  type ResizeImageOptions,
  type ResizeResult,
  rebaseImage,
  resizeImage,
  type StepImageOptions,
  type StreamImageOptions,
  stepImage,
  streamImage,
} from "./image/index.ts";
export {
  type AllocationRun,
  type ConnectNbdOptions,
  connectNbd,
  type LatencySummary,
  listNbdExports,
  type NbdClient,
  type NbdExportInfo,
  type NbdListEntry,
  type NbdNode,
  nbdExportInfo,
  type TrafficFigures,
} from "./nbd/index.ts";
export type { SourceOptions } from "./sources/index.ts";
export type { StepResult, StreamProgress, StreamReason, StreamState } from "./stream/index.ts";
