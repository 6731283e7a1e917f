/** What the runner remembers and tells of a stream, by what a disk says of it. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { type TestContext, test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import type { StreamProgress } from "../stream/index.ts";
import { EventHub } from "./event-hub.ts";
import { JobRunner } from "./job-runner.ts";
import { noLog } from "./log.ts";
import { SpeedLimits } from "./speed-limits.ts";
import { StreamShares } from "./stream-shares.ts";
import type { StreamedDisk, StreamedDiskEvents } from "./streamed-disk.ts";

/** A disk whose stream does what the test says. */
class FakeDisk extends EventEmitter<StreamedDiskEvents> implements StreamedDisk {
  readonly lost = undefined;
  readonly streaming = Promise.withResolvers<void>();

  async info() {
    return { length: 100, localBytes: 0, missingBytes: 100, hydrated: false, below: ["nbd://there/x"] };
  }
  async stream(): Promise<void> {
    this.streaming.resolve();
  }
  async cancelStream(): Promise<void> {}
  async setSpeed(): Promise<void> {}

  tell(state: "running" | "waiting", copiedBytes: number, code: "source-lost" | "no-space" = "source-lost"): void {
    const progress: StreamProgress = {
      ...{ state, offset: copiedBytes, length: 100, localBytes: 0, zeroBytes: 0, missingBytes: 100 - copiedBytes },
      ...{ copiedBytes, rate: 0, throttled: false, window: 0, warnings: [] },
      ...(state === "waiting" && { reason: { code, message: code, retryIn: 1 } }),
    };
    this.emit("progress", progress);
  }
}

async function streaming(t: TestContext) {
  const store = new MemoryStore();
  const events = new EventHub(store, noLog, { events: 1000, jobs: 10 });
  const shares = new StreamShares(await SpeedLimits.of({}, store), new ManualClock());
  const runner = new JobRunner({
    store,
    events,
    log: noLog,
    maxStreams: 1,
    shares,
    onHydrated: () => {},
    behind: (place) => place,
  });
  t.after(() => runner.stop());
  const disk = new FakeDisk();
  runner.begin();
  runner.attach("vm1@1", "vm1", disk);
  await runner.start("vm1@1", { priority: 0 });
  await disk.streaming.promise;
  const told = async () => {
    await events.settled();
    return (await store.events({ limit: 1000 })).map(({ type }) => type.replace("job-", ""));
  };
  return { disk, runner, told };
}

test("a wait is told of once, and once for each new reason, however often the stream tries", async (t) => {
  const { disk, runner, told } = await streaming(t);
  disk.tell("running", 10);
  for (let retry = 0; retry < 20; retry++) {
    disk.tell("waiting", 10);
    disk.tell("running", 10);
  }
  assert.equal(runner.active("vm1@1")?.record.state, "waiting");
  assert.deepEqual(await told(), ["created", "started", "waiting"]);
  disk.tell("waiting", 10, "no-space");
  disk.tell("running", 10);
  disk.tell("waiting", 10, "no-space");
  disk.tell("running", 11);
  assert.equal(runner.active("vm1@1")?.record.state, "running");
  assert.deepEqual(await told(), ["created", "started", "waiting", "waiting", "started"]);
});

test("a stream that was begun anew, and counts from nothing, goes on with its first byte", async (t) => {
  const { disk, runner, told } = await streaming(t);
  disk.tell("running", 50);
  disk.tell("waiting", 50);
  disk.tell("running", 0);
  assert.equal(runner.active("vm1@1")?.record.state, "waiting");
  disk.tell("running", 1);
  assert.deepEqual(await told(), ["created", "started", "waiting", "started"]);
});
