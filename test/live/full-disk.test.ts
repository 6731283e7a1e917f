/** The file system under a disk is full: the guest is told so, the stream waits, and with room again all goes on. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { temporaryDirectory } from "../support/cli.ts";

/** Runs a program of this directory where a file system of 12 MiB is mounted. */
function onSmallDisk(t: TestContext, name: string) {
  const directory = temporaryDirectory(t);
  const small = join(directory, "small");
  mkdirSync(small);
  const script = 'mount -t tmpfs -o size=12m none "$2" && exec "$0" "$3" "$1" "$2"';
  const program = join(import.meta.dirname, name);
  const args = ["-rm", "sh", "-c", script, process.execPath, directory, small, program];
  return spawnSync("unshare", args, { encoding: "utf8" });
}

test("a full disk under the overlay loses nothing, and its stream goes on when there is room", (t) => {
  const { stdout, stderr } = onSmallDisk(t, "full-disk-daemon.ts");
  assert.notEqual(stdout, "", stderr);
  const { written, ...found } = JSON.parse(stdout) as { written: number };
  assert(written > 0 && written < 8);
  assert.deepEqual(found, { kept: true, guest: "no-space", stream: "no-space" });
});

test("a guest whose overlay has no room left is paused for that, and goes on when there is room and somebody lets it", (t) => {
  const { stdout, stderr } = onSmallDisk(t, "full-disk-domain.ts");
  assert.notEqual(stdout, "", stderr);
  assert.deepEqual(JSON.parse(stdout), {
    ...{ code: "no-space", disk: "vm:vda", byUser: false, state: "io-error", written: "written", errors: false },
  });
});
