/**
 * kill -9 of a QEMU within milliseconds of the end of its disk's stream: before the last job, while it waits to be finalized, when the link
 * is dropped, when all is taken out again. Whatever the moment, the image is whole: it holds what it should, with its source or alone, and
 * a QEMU that is started again goes on.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { RunningDomain } from "../../src/domain/index.ts";
import { qemuImg, startMonitored } from "../support/qemu.ts";
import { describedAs, startQemuDisk, virtioDisk } from "../support/qemu-disk.ts";
import { sample } from "../support/seed.ts";

const SIZE = 4 * 2 ** 20;

/** From which state of QEMU's job on time is counted. */
const STATES = ["created", "pending", "concluded", "null"] as const;
const DELAYS_MS = [0, 1, 2, 3, 5, 8, 13, 21];

const CELLS = (["qcow2", "qed"] as const).flatMap((format) =>
  STATES.flatMap((state) => DELAYS_MS.map((delay) => ({ format, state, delay }))),
);

function backingOf(image: string, format: string): unknown {
  const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  return info["backing-filename"];
}

async function run(t: TestContext, { format, state, delay }: (typeof CELLS)[number]): Promise<void> {
  const disk = await startQemuDisk(t, { format, size: SIZE });
  const { image, expected, directory, source } = disk;
  const stream = await disk.domain.stream("vda");
  assert.equal(stream.method, "fill");
  let killed: Promise<void> | undefined;
  disk.domain.qmp.onEvent(({ name, data }) => {
    if (name !== "JOB_STATUS_CHANGE" || data.get("status").string() !== state) return;
    killed ??= sleep(delay).then(() => disk.qemu.kill());
  });
  // Whether the end was told in time is nobody's business: the image tells.
  const end = await stream.run().then(
    () => "completed",
    (error) => error.code,
  );
  assert.ok(killed !== undefined, `the job was never ${state}`);
  await killed;
  assert.ok(["completed", "shutdown"].includes(end), end);

  // What is mapped is there, whether the link is or not.
  const link = backingOf(image, format);
  qemuImg("check", "-q", "-r", "leaks", "-f", format, image);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);

  const qmp = join(directory, "again");
  const again = await startMonitored(qmp, ...virtioDisk(image, format));
  t.after(() => again.kill());
  await using domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });
  const rest = await domain.stream("vda");
  await rest.run();
  const refetched = rest.progress.copiedBytes;
  assert.equal(refetched, 0, "what was flushed before the last job is fetched once");
  await again.kill();
  await source.stop();
  rmSync(join(directory, "base.raw"));
  assert.equal(backingOf(image, format), undefined);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  t.diagnostic(
    `the stream ended with '${end}'; ${link === undefined ? "the image stood alone" : "the link was there still"}`,
  );
}

for (const cell of sample("qemu end", CELLS, 3)) {
  const { format, state, delay } = cell;
  test(`${format}: QEMU is killed ${delay} ms after its job was ${state}`, (t) => run(t, cell));
}
