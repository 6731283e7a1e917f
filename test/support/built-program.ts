/** The program as it is published, built into a directory of its own: what a user runs and what is measured. */
import { copyFileSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { peer } from "./cli.ts";

const ROOT = join(import.meta.dirname, "../..");

/**
 * Builds it without a look at the types, which have a test of their own.
 *
 * @param directory is made
 * @returns the path of the program, for node to run
 */
export function buildProgram(directory: string): string {
  const config = ["-p", join(ROOT, "tsconfig.build.json"), "--noCheck", "--declaration", "false"];
  peer(join(ROOT, "node_modules/.bin/tsc"), ...config, "--outDir", join(directory, "dist"));
  peer(process.execPath, join(ROOT, "scripts/build-web.ts"), join(directory, "dist/web"));
  mkdirSync(join(directory, "bin"));
  for (const file of ["package.json", "bin/streamdisk.js"]) copyFileSync(join(ROOT, file), join(directory, file));
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
  return join(directory, "bin/streamdisk.js");
}
