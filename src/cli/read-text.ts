import { readFile } from "node:fs/promises";
import { wrapSystemError } from "../errors/index.ts";

/** Reads a file that the user named. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw wrapSystemError(error, path, "read");
  }
}
