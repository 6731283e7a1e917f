export { CopyOnRead, type CopyOnReadCounts, type CopyOnReadOptions } from "./copy-on-read.ts";
export { ExtentCache } from "./extent-cache.ts";
export { Hold, type HoldOptions, type SourceHealth, type SourcePolicy } from "./hold.ts";
export { Timed, type TimedOptions } from "./timed.ts";
