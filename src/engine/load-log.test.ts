import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { Traffic } from "../nbd/server/traffic.ts";
import { LoadLog, type LoadSource } from "./load-log.ts";

class FakeDisk implements LoadSource {
  readonly done = new Traffic();
  fetchedBytes = 0;
  streamedBytes = 0;

  get requests(): number {
    return this.done.requests;
  }

  traffic(): Traffic {
    const copy = new Traffic();
    copy.add(this.done);
    return copy;
  }

  read(bytes: number, milliseconds: number): void {
    this.done.readLatency.record(milliseconds);
    this.done.readBytes += bytes;
  }
}

function begin() {
  const disk = new FakeDisk();
  disk.read(1, 1);
  const clock = new ManualClock();
  const log = new LoadLog(disk, clock);
  return { disk, clock, log };
}

test("a second in which something happened has a sample of what was new in it", async () => {
  const { disk, clock, log } = begin();
  const began = Date.now();
  await clock.advance(1000);
  assert.deepEqual([log.since(0), log.last], [[], undefined]);
  disk.read(4096, 2);
  disk.read(4096, 2);
  disk.streamedBytes = 10;
  await clock.advance(1000);
  disk.done.writeLatency.record(0.015);
  disk.done.writtenBytes += 512;
  disk.fetchedBytes = 7;
  await clock.advance(1000);
  await clock.advance(1000);
  const [first, second, ...more] = log.since(0);
  const nothing = { reads: 0, writes: 0, readBytes: 0, writtenBytes: 0, fetchedBytes: 0, streamedBytes: 0 };
  const { at = 0, readP50Us = 0, readP99Us, ...read } = first ?? {};
  assert.deepEqual(read, { ...nothing, reads: 2, readBytes: 8192, streamedBytes: 10, writeP99Us: 0 });
  assert.ok(Math.abs(readP50Us - 2000) < 130 && readP50Us === readP99Us && at >= began);
  const { at: later = 0, ...written } = second ?? {};
  const noReads = { readP50Us: 0, readP99Us: 0 };
  assert.deepEqual(written, { ...nothing, ...noReads, writes: 1, writtenBytes: 512, fetchedBytes: 7, writeP99Us: 15 });
  assert.deepEqual(more, []);
  assert.deepEqual(log.since(at), [second]);
  assert.deepEqual(log.since(later), []);
  assert.deepEqual(log.last, second);
});

test("the oldest make room, and each is later than the one before", async () => {
  const { disk, clock, log } = begin();
  for (let second = 1; second <= 1000; second++) {
    disk.read(second, 1);
    await clock.advance(1000);
  }
  const samples = log.since(0);
  assert.deepEqual([samples.length, samples[0]?.readBytes, samples.at(-1)?.readBytes], [900, 101, 1000]);
  assert.ok(samples.every(({ at }, index) => index === 0 || at > (samples[index - 1]?.at ?? 0)));
});

test("a clock that is set forward and back breaks neither the order of samples nor what is the last one", async (t) => {
  const { disk, clock, log } = begin();
  const now = t.mock.method(Date, "now");
  const readAt = async (time: number): Promise<void> => {
    now.mock.mockImplementation(() => time);
    disk.read(4096, 1);
    await clock.advance(1000);
  };
  const times = (since: number): number[] => log.since(since).map(({ at }) => at);
  await readAt(50_000);
  await readAt(90_000_000);
  await readAt(89_999_500);
  assert.deepEqual([times(0), log.last?.at], [[50_000, 90_000_000, 90_000_001], 90_000_001]);
  await readAt(60_000);
  assert.deepEqual([times(0), times(90_000_001), times(60_000), log.last?.at], [[60_000], [60_000], [], 60_000]);
  await clock.advance(3000);
  assert.equal(log.last, undefined);
});

test("after its end nothing is looked at", async () => {
  const { disk, clock, log } = begin();
  log.stop();
  disk.read(1, 1);
  await clock.advance(5000);
  assert.deepEqual(log.since(0), []);
});
