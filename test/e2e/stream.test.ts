import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { StreamProgress } from "../../src/stream/index.ts";
import {
  assertComplete,
  assertFails,
  type CliEnd,
  cli,
  cliOk,
  hashes,
  MAIN,
  makeOverlay,
  peer,
  startCli,
  temporaryDirectory,
} from "../support/cli.ts";

/** Slow enough that a stream is still under way when the test does something to it. */
const SLOW = ["--speed", "8M"];

const progressOf = (line: string) => JSON.parse(line) as StreamProgress;

for (const format of ["qcow2", "qed"]) {
  test(`stream makes an overlay of ${format} stand alone`, async (t) => {
    const overlay = makeOverlay(temporaryDirectory(t), format);
    const { stdout, stderr } = await cliOk(["stream", overlay.image]);
    assert.match(stdout, /^'.*' stands alone now: \S+ MiB local, \S+ MiB zero; \S+ MiB fetched in /);
    assert.equal(stderr, "", "a pipe gets no bar");
    assertComplete(overlay);
  });
}

test("a stream of what stands alone is done at once", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  await cliOk(["stream", overlay.image]);
  const before = hashes(overlay.image);
  await cliOk(["stream", overlay.image]);
  assert.deepEqual(hashes(overlay.image), before);
});

test("--json prints each progress on a line, the last of them completed", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const { stdout, stderr } = await cliOk(["stream", overlay.image, "--json"]);
  const progress = stdout.trimEnd().split("\n").map(progressOf);
  const last = progress.at(-1);
  assert.equal(last?.state, "completed");
  assert.equal(last?.missingBytes, 0);
  assert.equal(last?.length, 32 * 1024 ** 2);
  assert.equal(stderr, "");
});

test("--progress prints lines where there is no terminal", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const { stderr } = await cliOk(["stream", overlay.image, "--progress"]);
  assert.match(stderr, /^100% {2}32 MiB of 32 MiB\n$/m);
});

test("a terminal gets a bar", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const command = `"${process.execPath}" "${MAIN}" stream "${overlay.image}" --speed 32M`;
  const seen = peer("script", "--quiet", "--return", "--command", command, "/dev/null");
  const frames = seen.split("\r\u001b[K").slice(1);
  assert(frames.length >= 2, seen);
  for (const frame of frames) assert.match(frame, /^[█░#.]{30} +\d+% {2}\S+ MiB of 32 MiB/);
  assert.match(frames.at(-1) ?? "", / 100% {2}32 MiB of 32 MiB\r\n'.*' stands alone now/);
});

for (const [signal, exit] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const) {
  test(`${signal} stops a stream, says what is kept, and the same command goes on`, async (t) => {
    const overlay = makeOverlay(temporaryDirectory(t));
    const running = startCli(["stream", overlay.image, ...SLOW, "--json"], {
      onLine: (line) => {
        if (progressOf(line).copiedBytes > 0 && !running.child.killed) running.child.kill(signal);
      },
    });
    const end = await running.ended;
    assert.equal(end.exit, exit, end.stderr);
    assert.match(end.stderr, new RegExp(`^streamdisk: Interrupted by ${signal}\\. .* at \\d+ of 33554432 bytes of `));
    assert.match(
      end.stderr,
      /What was fetched stays .*\. Go on with: streamdisk stream \S+vm\.qcow2 --speed 8M --json\n$/,
    );
    assert.equal(end.stderr.split("\n").length, 2, "one line");
    peer("qemu-img", "check", "-q", overlay.image);
    peer("qemu-img", "compare", "-q", overlay.image, overlay.expected);
    const stopped = progressOf(end.stdout.trimEnd().split("\n").at(-1) ?? "");
    assert.equal(stopped.state, "cancelled");

    const resumed = progressOf(
      (await cliOk(["stream", overlay.image, "--json"])).stdout.trimEnd().split("\n").at(-1) ?? "",
    );
    assert(resumed.copiedBytes < 16 * 1024 ** 2, `the second stream fetched only ${resumed.copiedBytes}`);
    assertComplete(overlay);
  });
}

test("a stream killed with -9 goes on", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const running = startCli(["stream", overlay.image, ...SLOW, "--json"], {
    onLine: (line) => {
      if (progressOf(line).copiedBytes > 4 * 1024 ** 2) running.child.kill("SIGKILL");
    },
  });
  assert.equal((await running.ended).killedBy, "SIGKILL");
  await cliOk(["stream", overlay.image]);
  assertComplete(overlay);
});

test("two streams of one image: the second is refused, the first goes on", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  let second: Promise<CliEnd> | undefined;
  let copiedBefore = Number.POSITIVE_INFINITY;
  const first = startCli(["stream", overlay.image, "--speed", "2M", "--json"], {
    onLine: (line) => {
      const { copiedBytes } = progressOf(line);
      if (copiedBytes > copiedBefore && !first.child.killed) first.child.kill("SIGINT");
      if (copiedBytes === 0 || second !== undefined) return;
      second = cli(["stream", overlay.image]);
      void second.then(() => {
        copiedBefore = copiedBytes;
      });
    },
  });
  assert.equal((await first.ended).exit, 130);
  assert(second !== undefined);
  assertFails(await second, 75, `'${overlay.image}'`, /by streamdisk \(pid \d+\)/);
  await cliOk(["stream", overlay.image]);
  assertComplete(overlay);
});

test("steps go on where the image says, in processes of their own, until exit code 10", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const nexts: number[] = [];
  for (;;) {
    const end = await cli(["stream", overlay.image, "--step", "--length", "4M"]);
    assert(end.exit === 0 || end.exit === 10, end.stderr);
    assert.match(end.stdout, /^\d+\n$/);
    nexts.push(Number(end.stdout));
    if (end.exit === 10) break;
    assert(nexts.length < 20, `no end after ${nexts}`);
  }
  assert.deepEqual(
    nexts,
    nexts.toSorted((a, b) => a - b),
  );
  assert(nexts.length >= 3, `${nexts}`);
  assertComplete(overlay);
});

test("a step has an offset, and says in JSON what it did", async (t) => {
  const overlay = makeOverlay(temporaryDirectory(t));
  const end = await cliOk(["stream", overlay.image, "--step", "--offset", "10M", "--length", "64K", "--json"]);
  const { next, copied, done } = JSON.parse(end.stdout) as Record<string, unknown>;
  assert.deepEqual({ next, copied, done }, { next: 10 * 1024 ** 2 + 65536, copied: 65536, done: false });
});

test("--base keeps what lies below it", async (t) => {
  const directory = temporaryDirectory(t);
  const overlay = makeOverlay(directory);
  const top = join(directory, "top.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", "vm.qcow2", "-F", "qcow2", top);
  const { stdout } = await cliOk(["stream", top, "--base", overlay.base]);
  assert.match(stdout, /needs nothing above '.*base\.raw' now/);
  const info = JSON.parse(peer("qemu-img", "info", "--output=json", top)) as Record<string, string>;
  assert.match(info["full-backing-filename"] ?? "", /base\.raw$/);
  peer("qemu-img", "compare", "-q", top, overlay.expected);
  peer("qemu-img", "check", "-q", top);
});
