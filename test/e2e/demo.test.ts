import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFails, cli, cliOk, MAIN, peer, startCli, temporaryDirectory } from "../support/cli.ts";

const MIB = 1024 ** 2;

test("on a terminal the demo tells its story, stays to be looked at until q, and leaves nothing behind", async (t) => {
  const directory = temporaryDirectory(t);
  const child = spawn("script", ["-qec", `${process.execPath} ${MAIN} demo --dir ${directory}`, "/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  const stays = Promise.withResolvers<void>();
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (more: string) => {
    text += more;
    if (text.includes("q or Ctrl-C ends it")) stays.resolve();
  });
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  await Promise.race([stays.promise, ended]);
  const [first = "", ...others] = Array.from(
    text.matchAll(/http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}/g),
    ([url]) => url,
  );
  assert.deepEqual(others, [first], `the address is said at the start and at the end:\n${text}`);
  assert.equal((await fetch(new URL("/readyz", first))).status, 200, "it is up to be looked at");
  child.stdin.write("q");
  assert.equal(await ended, 0, text);
  assert.match(text, /^streamdisk demo: .*#token=/, "the address comes first");
  assert.match(text, /kill -9 of the daemon/);
  assert.match(text, /no request of it failed/);
  assert.match(text, /The stream waits: .*\.qcow2/);
  assert.match(text, /every byte is what the image held or the guest wrote/);
  assert.match(text, /qemu-img check: No errors were found/);
  assert.match(text, /qemu-img compare: Images are identical/);
  await assert.rejects(fetch(new URL("/readyz", first)), "its daemon has ended");
  assert.deepEqual(readdirSync(directory), []);
});

test("in a pipe, with QED, it ends with the verdict, keeps its images on request, and says what it found", async (t) => {
  const directory = temporaryDirectory(t);
  const { stdout, stderr } = await cliOk(["demo", "--format", "qed", "--dir", directory, "--keep", "--json"]);
  const result = JSON.parse(stdout) as Record<string, unknown> & { "missing-bytes": number[] };
  const [before = 0, killed = 0, after] = result["missing-bytes"];
  assert.deepEqual([result["failure"], result["format"], result["qemu-img"]], [undefined, "qed", "agrees"]);
  assert.equal(result["verified-bytes"], result["virtual-size"]);
  assert(before > 48 * MIB && killed < before && after === 0, `${before}, ${killed} and ${after} bytes missing`);
  for (const figure of ["usable-after-ms", "outage-ms", "reads-without-source", "writes"]) {
    assert(Number(result[figure]) > 0, figure);
  }
  const [kept = ""] = readdirSync(directory);
  assert(stderr.includes(kept), stderr);
  const [image = "", expected = ""] = ["state/images/vm1.qed", "expected.raw"].map((name) =>
    join(directory, kept, name),
  );
  peer("qemu-img", "compare", "-q", "-f", "qed", "-F", "raw", image, expected);
});

test("Ctrl-C ends the demo and its daemon, and nothing is left", async (t) => {
  const directory = temporaryDirectory(t);
  let address = "";
  const running = startCli(["demo", "--dir", directory], {
    onLine: (line) => {
      address ||= /http:\S+/.exec(line)?.[0] ?? "";
      if (line.startsWith("2 ")) running.child.kill("SIGINT");
    },
  });
  const end = await running.ended;
  assert.equal(end.exit, 130, end.stderr);
  assert.match(end.stderr, /^streamdisk: Interrupted by SIGINT\n$/);
  assert(!end.stdout.includes("\r") && !end.stdout.includes("\u001b"), "no bar in a pipe");
  await assert.rejects(fetch(new URL("/readyz", address)), "its daemon has ended");
  assert.deepEqual(readdirSync(directory), []);
});

test("a demo that has no place says so", async (t) => {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, "a"));
  assertFails(await cli(["demo", "--dir", join(directory, "none")]), 66, join(directory, "none"));
});
