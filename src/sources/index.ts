export { FileNode, type OpenFileOptions, openFile } from "./file.ts";
export type { LockMode } from "./image-lock.ts";
export { openSource, referencePath } from "./open-source.ts";
