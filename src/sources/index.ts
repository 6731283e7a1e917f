export { FileNode, type OpenFileOptions, openFile } from "./file.ts";
export type { LockMode } from "./image-lock.ts";
export {
  hostOfReference,
  openSource,
  parseReference,
  type SourceNode,
  type SourceOptions,
  type SourceReference,
  shownReference,
  sourceIdentity,
} from "./open-source.ts";
export { type SourceFacts, sourceFacts } from "./source-facts.ts";
