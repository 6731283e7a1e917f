import { copyFile, stat, truncate } from "node:fs/promises";

const LONGEST_LOG = 4 * 2 ** 20;

/**
 * Keeps a log that its writer appends to from growing for ever: a guest can write as much as it likes. What is too much becomes `PATH.1`; lines that
 * come in that moment may be lost.
 */
export async function trimLog(path: string): Promise<void> {
  try {
    if ((await stat(path)).size <= LONGEST_LOG) return;
    await copyFile(path, `${path}.1`);
    await truncate(path);
  } catch {
    // There is none, or no room: the machine is not to suffer by its log.
  }
}
