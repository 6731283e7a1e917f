import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFails, cli, cliOk, peer, startCli, temporaryDirectory } from "../support/cli.ts";

const MIB = 1024 ** 2;

test("the demo tells its story in a pipe, and leaves nothing behind", async (t) => {
  const directory = temporaryDirectory(t);
  const { stdout, stderr } = await cliOk(["demo", "--dir", directory]);
  assert.match(stdout, /Killed with -9/);
  assert.match(stdout, /every byte is what the base held or the guest wrote/);
  assert.match(stdout, /qemu-img check: No errors were found/);
  assert.match(stdout, /qemu-img compare: Images are identical/);
  assert(!stdout.includes("\r") && !stdout.includes("\u001b"), "no bar in a pipe");
  assert.equal(stderr, "");
  assert.deepEqual(readdirSync(directory), []);
});

test("the demo with QED keeps its images on request, and says in JSON what it found", async (t) => {
  const directory = temporaryDirectory(t);
  const { stdout, stderr } = await cliOk(["demo", "--format", "qed", "--dir", directory, "--keep", "--json"]);
  const result = JSON.parse(stdout) as Record<string, unknown> & { "missing-bytes": number[] };
  const [before = 0, killed = 0, after] = result["missing-bytes"];
  assert.equal(result.failure, undefined);
  assert.equal(result.format, "qed");
  assert.equal(result["verified-bytes"], result["virtual-size"]);
  assert(before > 128 * MIB && killed < before && killed > 0, `${before} and ${killed} bytes missing`);
  assert.equal(after, 0);
  assert(Number(result["resumed-bytes"]) >= killed && Number(result["resumed-bytes"]) < before);
  const [kept = ""] = readdirSync(directory);
  assert(stderr.includes(kept), stderr);
  const [image = "", expected = ""] = ["vm.qed", "expected.raw"].map((name) => join(directory, kept, name));
  peer("qemu-img", "compare", "-q", "-f", "qed", "-F", "raw", image, expected);
});

test("Ctrl-C ends the demo and its child, and nothing is left", async (t) => {
  const directory = temporaryDirectory(t);
  const running = startCli(["demo", "--dir", directory], {
    onLine: (line) => {
      if (line.startsWith("2 ")) running.child.kill("SIGINT");
    },
  });
  const end = await running.ended;
  assert.equal(end.exit, 130, end.stderr);
  assert.match(end.stderr, /^streamdisk: Interrupted by SIGINT\n$/);
  assert.deepEqual(readdirSync(directory), []);
});

test("a demo that has no place says so", async (t) => {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, "a"));
  assertFails(await cli(["demo", "--dir", join(directory, "none")]), 66, join(directory, "none"));
});
