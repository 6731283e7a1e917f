export { CopyOnRead, type CopyOnReadCounts, type CopyOnReadOptions } from "./copy-on-read.ts";
export { ExtentCache } from "./extent-cache.ts";
