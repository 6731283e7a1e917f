/** A process that may have no more files open, in which nothing can be started either. */
import assert from "node:assert/strict";
import { runPeer } from "./peer-process.ts";

const MOST = 64;

/**
 * Runs a module's code in a process of its own, with `fill(free)`, which opens files until only so many more can be.
 *
 * @param code which must come to its end; what else fails in that process fails the test
 */
export async function withFewFiles(code: string): Promise<void> {
  const fill = [
    'import assert from "node:assert/strict";',
    'import { closeSync, openSync } from "node:fs";',
    "function fill(free) {",
    "  const open = [];",
    '  try { for (;;) open.push(openSync("/dev/null")); } catch {}',
    "  for (const file of open.splice(0, free)) closeSync(file);",
    "}",
  ];
  const text = [...fill, code, 'setTimeout(() => console.log("lives"), 100);'].join("\n");
  const node = [process.execPath, "--input-type=module", "-e", text];
  const { status, stdout, stderr } = await runPeer("sh", "-c", `ulimit -n ${MOST}; exec "$0" "$@"`, ...node);
  assert.deepEqual({ status, stdout }, { status: 0, stdout: "lives\n" }, stderr);
}
