/** A daemon whose clock of the day is set forward and back while it works, and while it does not run. */
import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import type { Event } from "../../src/client/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { cliOk, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

const MIB = 2 ** 20;
const DAY = 24 * 60 * 60 * 1000;

test("a clock that is set forward and back changes times that are shown, and nothing that is done", async (t) => {
  const directory = temporaryDirectory(t);
  const ahead = join(directory, "ahead");
  const setClock = (milliseconds: number): void => {
    writeFileSync(`${ahead}.new`, String(milliseconds));
    renameSync(`${ahead}.new`, ahead);
  };
  setClock(0);
  const preload = pathToFileURL(join(import.meta.dirname, "../support/set-clock.ts")).href;
  const environment = { NODE_OPTIONS: `--import=${preload}`, CLOCK_AHEAD_FILE: ahead };
  await using daemon = new DaemonProcess(directory, ["--max-streams", "1"], environment);
  const base = join(daemon.images, "base.raw");
  writeFileSync(base, Buffer.alloc(8 * MIB, 5));
  await daemon.start();
  const { client } = daemon;
  const create = (name: string) =>
    client.call("createDisk", { body: { name, backing: base, backingFormat: "raw" } }, { idempotencyKey: name });

  const made = await create("a");
  await create("b");
  await create("c");
  const [a, b, c] = [client.disk("a"), client.disk("b"), client.disk("c")];
  await a.stream({ speed: MIB / 8 });
  setClock(2 * DAY);
  assert.deepEqual(await create("a"), made);
  await b.stream({ speed: MIB / 8 });
  while ((await a.load()).length < 2) await sleep(50);

  setClock(-2 * DAY);
  const setBackAt = performance.now();
  // By the clock it is the oldest.
  await c.stream({ speed: MIB / 8 });
  const copied = (await a.streamInfo()).copiedBytes;
  const hasSecondsOfNow = async (): Promise<boolean> => {
    const samples = await a.load();
    return (
      samples.length >= 2 && samples.every(({ at }, index) => at < Date.now() && at > (samples[index - 1]?.at ?? 0))
    );
  };
  while (!(await hasSecondsOfNow())) await sleep(50);
  for (let eta = 0; !(eta > 1 && eta < 300); await sleep(50)) eta = (await a.streamInfo()).etaSeconds ?? 0;
  // What is remembered of a stream every few seconds.
  while (performance.now() - setBackAt < 6_500) await sleep(100);
  await daemon.stop("SIGKILL");

  setClock(-9 * DAY);
  await daemon.start();
  assert((await a.streamInfo()).copiedBytes > copied);
  // Whose disk is open first begins then: the queue is formed anew.
  for (const disk of [a, b, c]) await disk.pause();
  for (const disk of [a, c, b]) await disk.resume();
  for (const disk of [c, b, a]) await disk.setSpeed(null);
  for (const disk of [a, b, c]) while ((await disk.streamInfo()).state !== "completed") await sleep(50);
  const { stdout } = await cliOk(["events", "--after", "0", "--json"], { env: daemon.env });
  const events = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Event);
  assert.deepEqual(
    events.map(({ id }) => id),
    events.map((_, index) => index + 1),
  );
  assert(events.some(({ time }, index) => time < (events[index - 1]?.time ?? 0)));
  const ends = events.filter(({ type }) => type === "hydrated").map(({ disk }) => disk);
  assert.deepEqual(ends, ["a", "b", "c"]);
  const { jobs } = await client.call("listJobs", {});
  assert.deepEqual(
    jobs.map(({ disk, state }) => [disk, state]),
    ["c", "b", "a"].map((disk) => [disk, "completed"]),
  );
  await using guest = await connectNbd(made.uri ?? "");
  const content = Buffer.alloc(MIB);
  await guest.read(7 * MIB, content);
  assert(content.every((byte) => byte === 5));
});
