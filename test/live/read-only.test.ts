/** The file system under a disk turns read-only: guests are told so, what is there is read on, and all is there when it can be written again. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../support/cli.ts";

test("a file system that turns read-only loses nothing, and its disk is served when it can be written again", (t) => {
  const directory = temporaryDirectory(t);
  const mounted = join(directory, "mounted");
  mkdirSync(mounted);
  const script = 'mount -t tmpfs -o size=32m none "$2" && exec "$0" "$3" "$1" "$2"';
  const program = join(import.meta.dirname, "read-only-daemon.ts");
  const args = ["-rm", "sh", "-c", script, process.execPath, directory, mounted, program];
  const { stdout, stderr } = spawnSync("unshare", args, { encoding: "utf8", timeout: 120_000 });
  assert.notEqual(stdout, "", stderr);
  const refused = { code: "permission", says: true };
  const image = join(mounted, "vm.qcow2");
  assert.deepEqual(JSON.parse(stdout), {
    write: refused,
    flush: refused,
    reads: [true, true, true],
    stream: refused,
    open: { code: "permission", message: `Could not open '${image}': the file system is read-only` },
    create: refused,
    kept: [true, true, true],
  });
});
