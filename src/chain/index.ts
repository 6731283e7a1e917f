export { LateImage, type LatePolicy } from "./late-image.ts";
export { openChain } from "./open-chain.ts";
export { resolveReference } from "./reference.ts";
export type { Chain, ChainLayer, ChainPolicy, ImageSpec } from "./spec.ts";
export { isUri, uriIsBelow } from "./uri-prefix.ts";
