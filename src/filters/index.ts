export { CopyOnRead, type CopyOnReadCounts, type CopyOnReadOptions } from "./copy-on-read.ts";
export { ExtentCache } from "./extent-cache.ts";
export { type Fault, type FaultOperation, Faults, type FaultsOptions, type FaultsRequest } from "./faults.ts";
export { Hold, type HoldOptions, type SourcePolicy } from "./hold.ts";
export { Readahead } from "./readahead.ts";
export { type SourceHealth, type SourceLoss, SourceWatch, type SourceWatchOptions } from "./source-watch.ts";
export { Timed, type TimedOptions } from "./timed.ts";
