/** Overlays of a real format whose image file lies in memory. */
import type { BlockNode } from "../../src/block/index.ts";
import { createFormat, type FormatName, type MappedFormatNode, openFormat } from "../../src/formats/index.ts";
import { MemoryNode } from "./memory-node.ts";

export interface MemoryImageOptions {
  readonly size: number;
  readonly backing: BlockNode;
  /** As `-o` has them. */
  readonly options?: Readonly<Record<string, string>>;
  /** What stands between the format and the file. */
  readonly wrapFile?: (file: BlockNode) => BlockNode;
}

/** Makes an empty overlay and opens it. */
export async function memoryImage(
  format: Exclude<FormatName, "raw">,
  { size, backing, options = {}, wrapFile = (file) => file }: MemoryImageOptions,
): Promise<MappedFormatNode> {
  const file = new MemoryNode(0, { name: `overlay.${format}` });
  await createFormat(format, file, { size, options, backing: { reference: "base.raw", format: "raw" } });
  const node = await openFormat(format, wrapFile(file), { readOnly: false, openBacking: async () => backing });
  if (!("populate" in node)) throw new Error(`A ${format} image cannot be populated`);
  return node as MappedFormatNode;
}
