/**
 * A real guest whose QEMU owns the overlay, over a source that is far away: it reads and writes while the overlay is filled from outside
 * and taken off its source. Then QEMU is killed at the very end, or the guest goes on and is powered off.
 */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { RunningDomain } from "../../src/domain/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { act } from "../support/guest/acts.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { describedAs, farOverlay, virtioDisk } from "../support/qemu-disk.ts";
import { rng, sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 24 * MIB;
const SPEED = 3 * MIB;
const AWAY_MS = 20;

const CELLS = [
  { format: "qcow2", end: "kill" },
  { format: "qed", end: "kill" },
  { format: "qcow2", end: "off" },
  { format: "qed", end: "off" },
] as const;

async function run(t: TestContext, { format, end }: (typeof CELLS)[number]): Promise<void> {
  const random = rng(`domain ${format} ${end}`);
  const directory = temporaryDirectory(t);
  const { source, image, expected } = await farOverlay(directory, format, SIZE, AWAY_MS);
  await using _source = source;
  const model = readFileSync(expected);
  const qmp = join(directory, "qmp");
  const monitor = ["-qmp", `unix:${qmp},server=on,wait=off`];
  const booted = await Guest.boot(makeBootFiles(directory), [...monitor, ...virtioDisk(image, format)]);
  await using guest = booted.guest;
  assert.equal(booted.diskBytes, SIZE);
  await using domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });

  let acts = 0;
  const doSome = async (many: number): Promise<void> => {
    for (let i = 0; i < many; i++) await act(guest, model, random, ++acts);
  };
  await doSome(5);
  const before = await domain.tally("vda");
  assert.ok(before.missing > SIZE / 2, "the stream has something to do");
  const stream = await domain.stream("vda", { speed: SPEED });
  assert.equal(stream.method, "fill");
  if (end === "kill") {
    domain.qmp.onEvent(({ name }) => {
      if (name === "BLOCK_JOB_COMPLETED") guest.signal("SIGKILL");
    });
  }
  let over = false;
  const running = stream.run().finally(() => {
    over = true;
  });
  running.catch(() => {});
  const actsBefore = acts;
  // What a guest writes and does not flush is lost with its QEMU: it is still when that is killed.
  const busy = (): boolean => !over && (end === "off" || stream.progress.offset < SIZE / 2);
  while (busy()) await doSome(1);
  const during = acts - actsBefore;
  assert.ok(during > 3, `the guest did ${during} things while the stream ran`);
  if (end === "kill") {
    assert.equal(await guest.does("flush"), "flushed");
    // Whether the end was told in time is nobody's business: the image tells.
    await running.catch((error) => assert.equal(error.code, "shutdown"));
    await guest.ended;
  } else {
    await running;
    assert.deepEqual(await domain.qmp.execute("query-block-exports", {}), []);
    await source.stop();
    rmSync(join(directory, "base.raw"));
    await doSome(15);
    await guest.powerOff();
  }
  await source.stop();
  rmSync(join(directory, "base.raw"), { force: true });

  writeFileSync(expected, model);
  const info = JSON.parse(qemuImg("info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
  // A QED that was not closed needs its check, which repairs by itself when it is opened.
  if (end === "off") qemuCheck(image, format);
  else qemuImg("check", "-q", "-r", "leaks", "-f", format, image);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  t.diagnostic(`${acts} acts of the guest, ${during} of them while its disk was filled`);
}

for (const cell of sample("domain", CELLS, 2)) {
  const how = cell.end === "kill" ? "QEMU is killed when its job ends" : "the guest is powered off later";
  test(`a real guest on ${cell.format} that QEMU owns, filled from ${AWAY_MS} ms away; ${how}`, (t) => run(t, cell));
}
