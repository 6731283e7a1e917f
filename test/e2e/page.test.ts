/** The daemon's page as people meet it: the built program, real disks over sources that are slow and die, a real Chromium. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import type { Browser } from "playwright-core";
import { connectNbd } from "../../src/nbd/index.ts";
import { type CellKind, Look, startBrowser } from "../support/browser.ts";
import { noise, startCli, temporaryDirectory } from "../support/cli.ts";
import { type NbdServerProcess, startNbdkit } from "../support/nbd-servers.ts";
import { Bench, program } from "../support/page-bench.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;
const TIB = 2 ** 40;
let browser: Browser;

before(async () => {
  browser = await startBrowser();
});
after(() => browser.close());

async function nbdkit(t: TestContext, ...args: string[]): Promise<NbdServerProcess> {
  const server = await startNbdkit(args, { tcp: true });
  t.after(() => server[Symbol.asyncDispose]());
  return server;
}

/** A file that is all hole but for a mebibyte of data here and there. */
function makeSparse(path: string, size: number, places: readonly number[]): void {
  const file = openSync(path, "wx");
  ftruncateSync(file, size);
  for (const place of places) writeSync(file, noise(MIB, 1), 0, MIB, place);
  closeSync(file);
}

/** Waits until the map that is seen is that of the API. */
async function mapAgrees(look: Look, { daemon }: Bench, name: string): Promise<readonly CellKind[]> {
  let seen: readonly CellKind[] = [];
  let expected: readonly CellKind[] = [];
  await until(
    async () => {
      seen = (await look.map()).cells;
      const { local, missing } = await daemon.client.disk(name).cells({ count: Math.max(1, seen.length) });
      expected = Array.from(local, (share, index) => {
        if (share > 0) return "local";
        return (missing[index] ?? 0) > 0 ? "outline" : "zero";
      });
      return seen.length > 1 && seen.join() === expected.join();
    },
    () => `it shows ${inShort(seen)} and should show ${inShort(expected)}`,
  );
  return seen;
}

/** "3 local, 12 zero". */
function inShort(kinds: readonly CellKind[]): string {
  const runs: string[] = [];
  for (let from = 0; from < kinds.length; ) {
    let to = from;
    while (kinds[to] === kinds[from] && to < kinds.length) to++;
    runs.push(`${to - from} ${kinds[from]}`);
    from = to;
  }
  return runs.slice(0, 12).join(", ");
}

test("a disk is seen as it is, and streamed by hand: step, start, pause, speed, resume, cancel", async (t) => {
  const source = await nbdkit(t, "--filter=delay", "pattern", String(16 * MIB), "rdelay=10ms");
  await using bench = await Bench.start(t, browser, source);
  const { uri = "" } = await bench.create("vm1", source);
  const disk = bench.daemon.client.disk("vm1");
  await using look = await bench.look();
  const { page } = look;
  await look.sees("1 in all");
  assert.doesNotMatch(page.url(), /token/);
  await page.getByRole("link", { name: /vm1/ }).click();
  assert.deepEqual(new Set(await mapAgrees(look, bench, "vm1")), new Set(["outline"]));
  await look.sees(/0 % of 16 MiB is here/);
  await look.sees("would be out of reach: 100 % of the disk.");
  await look.sees(/Reads of what is missing would wait until the source is back/);

  await look.press("One step");
  await look.sees("One step: 1 MiB came");
  assert.equal((await mapAgrees(look, bench, "vm1")).filter((kind) => kind === "local").length, 16);
  assert.match((await page.getByRole("application").getAttribute("aria-label")) ?? "", /6\.3 % local.*93\.8 % missing/);

  await look.press("Start stream…");
  await page.getByLabel(/At most, in MiB/).fill("0.5");
  await look.press("Start");
  await look.sees(/The rest comes at .*limit 512 KiB\/s/);
  assert.equal((await disk.streamInfo()).speed, MIB / 2);
  // What arrives while a map is on its way is not lost on it.
  await page.reload();
  await look.sees(/The rest comes at/);
  await look.press("Pause");
  await look.sees("The stream is paused, also over restarts");
  assert.equal((await disk.streamInfo()).state, "paused");
  await mapAgrees(look, bench, "vm1");
  await look.press("Speed…");
  await page.getByLabel(/At most, in MiB/).fill("1");
  await look.press("Set");
  await look.sees("The speed was changed");
  await look.press("Resume");
  await look.sees(/limit 1 MiB\/s/);
  await look.press("Cancel…");
  await look.press("Back");
  assert.equal((await disk.streamInfo()).state, "running");
  await look.press("Cancel…");
  await look.press("Cancel the stream");
  await look.sees("The stream was cancelled; what was fetched stays");
  assert.equal((await disk.streamInfo()).state, "cancelled");
  await mapAgrees(look, bench, "vm1");

  // What a guest writes is there without being asked for.
  await using guest = await connectNbd(uri);
  await guest.write(15 * MIB, new Uint8Array(64 * 1024).fill(1));
  await until(async () => (await look.map()).written.join() === String(15 * 16));
  await guest.flush();
  await look.sees("this host");
  await look.press("Start stream…");
  await look.press("Start");
  await look.sees("All 16 MiB are here. This disk stands alone.");
  await look.sees("would be lost. All of this disk is here, and it needs no source any more.");
  assert.deepEqual(new Set(await mapAgrees(look, bench, "vm1")), new Set(["local"]));
  await look.assertWell();
});

test("a source that dies, what waits for it, and another in its place", async (t) => {
  const source = await nbdkit(t, "pattern", String(8 * MIB));
  const other = await nbdkit(t, "pattern", String(8 * MIB));
  await using bench = await Bench.start(t, browser, source, other);
  const { uri = "" } = await bench.create("vm1", source);
  await using look = await bench.look();
  await look.page.getByRole("link", { name: /vm1/ }).click();
  await mapAgrees(look, bench, "vm1");
  await source.stop();
  await using guest = await connectNbd(uri);
  const read = guest.read(4 * MIB, new Uint8Array(4096));
  await look.sees("The source is gone");
  await look.sees(/Reads of what is missing wait until the source is back/);
  await look.sees("1 request of its machine waits for it.");
  await until(async () => (await look.map()).waiting.join() === String(4 * 16));
  await source.start();
  await read;
  await look.sees("If the source died now");
  await until(async () => (await look.map()).waiting.length === 0);
  await look.press("Replace source…");
  await look.page.getByLabel("Path or URI").fill(other.uri);
  await look.press("Replace");
  await look.sees(`The source is now ${other.uri}`);
  assert.equal((await bench.daemon.client.disk("vm1").info()).backing, other.uri);
  await look.press("Replace source…");
  await look.page.getByLabel("Path or URI").fill("/etc/shadow");
  await look.press("Replace");
  await look.sees(/may not open '\/etc\/shadow'/);
  await look.assertWell();
});

test("a daemon that is killed and started again: the page says so meanwhile, and is as it was", async (t) => {
  const source = await nbdkit(t, "pattern", String(8 * MIB));
  await using bench = await Bench.start(t, browser, source);
  await bench.create("vm1", source);
  await using look = await bench.look();
  await look.sees("1 in all");
  await bench.daemon.stop("SIGKILL");
  await look.sees(/The daemon does not answer\..*What you see is how it was/s);
  await look.sees("vm1");
  await bench.daemon.start(program());
  await look.page.getByText("The daemon does not answer.").waitFor({ state: "detached" });
  await bench.create("vm2", source);
  await look.sees("2 in all");
  await look.page.getByRole("link", { name: /vm2/ }).click();
  await mapAgrees(look, bench, "vm2");
  await bench.daemon.stop("SIGKILL");
  await look.sees("The daemon does not answer.");
  await bench.daemon.start(program());
  await look.page.getByText("The daemon does not answer.").waitFor({ state: "detached" });
  await bench.daemon.client.disk("vm2").step({ length: 4 * MIB });
  assert.ok((await mapAgrees(look, bench, "vm2")).includes("local"));
  await look.assertWell();
});

test("a disk of 4 TiB is drawn right, and any part of it, by keys", async (t) => {
  await using bench = await Bench.start(t, browser);
  const base = join(bench.daemon.images, "base.raw");
  makeSparse(base, 4 * TIB, [0, TIB, 4 * TIB - MIB]);
  await bench.daemon.client.call("createDisk", { body: { name: "big", backing: base, backingFormat: "raw" } });
  await bench.daemon.client.disk("big").step({ length: MIB });
  await using look = await bench.look();
  await look.page.getByRole("link", { name: /big/ }).click();
  const kinds = await mapAgrees(look, bench, "big");
  assert.ok(kinds.includes("zero") && kinds.includes("outline"));
  await look.sees(/all 4 TiB, a cell is/);
  const map = look.page.getByRole("application");
  await map.focus();
  await map.press("End");
  await look.sees(/to 4 TiB: /);
  for (let i = 0; i < 3; i++) await map.press("+");
  await look.sees(/^3\.5 TiB to 4 TiB of 4 TiB/);
  await map.press("Home");
  await look.sees(/^3\.5 TiB to 3\.5 TiB: |^3\.5 TiB to 3\.\d+ TiB: /);
  await map.press("PageUp");
  await look.sees(/^3\.25 TiB to 3\.75 TiB of 4 TiB/);
  await map.press("0");
  await look.sees(/all 4 TiB/);
  await look.press("Zoom in");
  await look.sees(/^1 TiB to 3 TiB of 4 TiB/);
  await look.press("All");
  await mapAgrees(look, bench, "big");
  await look.assertWell();
});

test("dark and light, narrow and wide, without disks and with: nobody is kept out", async (t) => {
  const source = await nbdkit(t, "pattern", String(8 * MIB));
  await using bench = await Bench.start(t, browser, source);
  await using look = await bench.look({ width: 360, scheme: "dark" });
  await look.sees("No disks yet");
  await look.assertForEverybody();
  await bench.create("a-disk-with-a-rather-long-name.for-a-narrow-window", source);
  await look.sees("1 in all");
  await look.assertForEverybody();
  await look.page.getByRole("link", { name: /narrow/ }).click();
  await mapAgrees(look, bench, "a-disk-with-a-rather-long-name.for-a-narrow-window");
  await look.assertForEverybody();
  await look.press("Start stream…");
  await look.assertForEverybody();
  await look.page.keyboard.press("Escape");
  await source.stop();
  await look.sees("The source is gone");
  await look.assertForEverybody();
  await look.page.setViewportSize({ width: 1600, height: 1000 });
  await look.assertForEverybody();
  await look.assertWell();
});

test("without the token there is nothing to see, and with it there is", async (t) => {
  await using bench = await Bench.start(t, browser);
  await using look = await Look.open(browser, bench.url);
  await look.sees("This page needs the daemon's token");
  await look.assertAccessible();
  await look.page.getByLabel("Token").fill("wrong");
  await look.press("Open");
  await look.sees("The token is not valid");
  await look.page.getByLabel("Token").fill(readFileSync(join(bench.daemon.state, "token"), "utf8").trim());
  await look.press("Open");
  await look.sees("No disks yet");
  await look.page.reload();
  await look.sees("No disks yet");
  await look.assertWell();
});

test("the daemon says where its page is, and keeps the token for the terminal", async (t) => {
  const state = join(temporaryDirectory(t), "state");
  const lines: string[] = [];
  const args = ["daemon", "--state-directory", state, "--port", "0", "--log-level", "warn"];
  const { child, ended } = startCli(args, { program: program(), onLine: (line) => lines.push(line) });
  await until(
    async () => lines.length > 1,
    () => lines.join(),
  );
  child.kill("SIGTERM");
  await ended;
  assert.match(lines[1] ?? "", /^Look at it: http:\/\/127\.0\.0\.1:\d+\/ \(the token is in '.*\/token'\)$/);
  const command = [process.execPath, program(), ...args].join(" ");
  const terminal = spawn("script", ["-qec", command, "/dev/null"], { stdio: ["ignore", "pipe", "ignore"] });
  t.after(() => terminal.kill());
  let shown = "";
  for await (const text of terminal.stdout.setEncoding("utf8")) {
    shown += text;
    if (/#token=[\w-]{43}\r?\n/.test(shown)) break;
  }
  assert.match(shown, new RegExp(`#token=${readFileSync(join(state, "token"), "utf8").trim()}`));
});
