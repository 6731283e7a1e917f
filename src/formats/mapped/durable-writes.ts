import type { BlockNode } from "../../block/index.ts";
import type { MetadataWrite } from "./allocator.ts";

/**
 * Makes an update of a header: what was written before is durable before it begins, and each write before the next. What the writes
 * are is the format's to say (`header-update.ts`), so that the image is valid between any two of them.
 */
export async function writeDurably(file: BlockNode, writes: readonly MetadataWrite[]): Promise<void> {
  await file.flush();
  for (const { offset, bytes } of writes) {
    await file.write(offset, bytes);
    await file.flush();
  }
}
