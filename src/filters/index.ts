export { CopyOnRead, type CopyOnReadCounts, type CopyOnReadOptions } from "./copy-on-read.ts";
export { ExtentCache, type ExtentCacheOptions } from "./extent-cache.ts";
export { type Fault, type FaultOperation, Faults, type FaultsOptions, type FaultsRequest } from "./faults.ts";
export { Hold, type HoldOptions, type SourcePolicy } from "./hold.ts";
export type { KnownSource } from "./known-source.ts";
export { Metered, type SourceCounts, type SourceFailure } from "./metered.ts";
export { Readahead } from "./readahead.ts";
export { type SourceHealth, type SourceLoss, SourceWatch, type SourceWatchOptions } from "./source-watch.ts";
export { Timed, type TimedOptions } from "./timed.ts";
