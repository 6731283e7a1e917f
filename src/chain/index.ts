export { identityOfPath } from "./identity.ts";
export { openChain } from "./open-chain.ts";
export { referencedPath } from "./reference.ts";
export type { Chain, ChainLayer, ChainPolicy, ImageSpec } from "./spec.ts";
