/**
 * A daemon's store when its process is killed, at random moments, over and over in one state directory; and on a disk that is full or can
 * only be read. What was acknowledged is there.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { SqliteStore } from "../../src/daemon/sqlite-store.ts";
import { openStateDirectory } from "../../src/daemon/state-directory.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { between } from "../support/draw.ts";
import { pick, rng, seed } from "../support/seed.ts";
import type { Line } from "./store-writer.ts";

const WRITER = join(import.meta.dirname, "store-writer.ts");
const ALL = 1_000_000;

test("what was acknowledged survives kill -9", async (t) => {
  const path = temporaryDirectory(t);
  const random = rng("kills of a store");
  const said: Line[] = [];
  for (let round = 0; round < pick(8, 60); round++) {
    said.push(...(await killedAfter(t, path, said.length, between(random, 1, 150))));
    await assertKept(path, said, `seed ${seed}, round ${round}`);
  }
  t.diagnostic(`${said.length} writes acknowledged`);
});

/** Lets a writer acknowledge so many writes, and kills it; what it does meanwhile is the chance in it. */
async function killedAfter(t: TestContext, path: string, first: number, writes: number): Promise<Line[]> {
  const child = spawn(process.execPath, [WRITER, path, String(first)], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const closed = once(child, "close");
  const lines: Line[] = [];
  for await (const text of createInterface({ input: child.stdout })) {
    lines.push(JSON.parse(text) as Line);
    if (lines.length === writes) child.kill("SIGKILL");
  }
  await closed;
  assert(lines.length >= writes, `it ended by itself: ${JSON.stringify(lines.at(-1))}`);
  return lines;
}

/** Every event is as it was printed, and of what was replaced, the last that was printed or a later one. */
async function assertKept(path: string, said: readonly Line[], when: string): Promise<void> {
  using directory = openStateDirectory(path);
  await using store = new SqliteStore(directory);
  const events = new Map((await store.events({ limit: ALL })).map((event) => [event.id, event]));
  const jobs = new Map((await store.jobs({ limit: ALL })).map((job) => [job.id, job.copiedBytes]));
  const disks = new Map((await store.disks()).map((disk) => [disk.id, disk.createdAt]));
  const newest = [...events.values()].at(-1);
  assert.equal(jobs.get("told"), newest?.time, `${when}: the last event and its job are of one transaction`);
  const ids = new Set<number>();
  for (const line of said) {
    if ("event" in line) {
      assert.deepEqual(events.get(line.event.id), line.event, when);
      assert(!ids.has(line.event.id), `${when}: id ${line.event.id} was given twice`);
      ids.add(line.event.id);
    } else if ("job" in line) {
      assert((jobs.get(line.job.id) ?? -1) >= line.job.copiedBytes, `${when}: ${line.job.id}`);
    } else if ("disk" in line) {
      assert((disks.get(line.disk.id) ?? -1) >= line.disk.createdAt, `${when}: ${line.disk.name}`);
    }
  }
}

test("a disk that is full is said to be, and loses nothing", async (t) => {
  const path = temporaryDirectory(t);
  const end = inSmallFileSystem(path, `"$NODE" "$WRITER" "$PWD/state"; cp -r state ../kept`);
  const said = linesOf(end.stdout);
  const last = said.pop();
  assert(last !== undefined && "error" in last, end.stderr);
  assert.equal(last.error.code, "no-space", last.error.message);
  assert.match(last.error.message, /'.*state\/state\.db': no space left on the device/);
  assert(said.length > 10);
  await assertKept(join(path, "kept"), said, "full disk");
});

test("a disk without room for a store is said to be full", (t) => {
  const fill = "dd if=/dev/zero of=rest bs=4k 2>&- || true";
  const end = inSmallFileSystem(temporaryDirectory(t), `mkdir state; ${fill}; "$NODE" "$WRITER" "$PWD/state"`);
  const [only] = linesOf(end.stdout);
  assert(only !== undefined && "error" in only, end.stderr);
  assert.equal(only.error.code, "no-space", only.error.message);
});

for (const [what, before] of [
  ["new", "mkdir state"],
  ["old", `"$NODE" "$WRITER" "$PWD/state" >before; rm ballast`],
] as const) {
  test(`a file system that can only be read is said to be, with ${what} state`, (t) => {
    const script = `echo ballast >ballast; ${before}; mount -o remount,ro .; "$NODE" "$WRITER" "$PWD/state"`;
    const end = inSmallFileSystem(temporaryDirectory(t), script);
    const [only] = linesOf(end.stdout);
    assert(only !== undefined && "error" in only, end.stderr);
    assert.equal(only.error.code, "permission", only.error.message);
    assert.match(only.error.message, /state\/lock'/);
  });
}

/** Runs a shell script in a file system of 1 MiB, which is gone when the script ends. */
function inSmallFileSystem(directory: string, script: string): { stdout: string; stderr: string } {
  const small = join(directory, "small");
  mkdirSync(small);
  const flags = process.getuid?.() === 0 ? ["-m"] : ["-r", "-m"];
  const mount = `set -eu; mount -t tmpfs -o size=1m none "${small}"; cd "${small}"`;
  const env = { ...process.env, NODE: process.execPath, WRITER };
  return spawnSync("unshare", [...flags, "sh", "-c", `${mount}\n${script}`], { encoding: "utf8", env });
}

function linesOf(output: string): Line[] {
  return output
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
}
