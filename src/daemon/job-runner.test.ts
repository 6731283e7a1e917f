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
  readonly streaming = Promise.withResolvers<number | undefined>();
  /** Why it cannot be looked at now. */
  away: Error | undefined;

  async info() {
    if (this.away !== undefined) throw this.away;
    return { length: 100, localBytes: 0, missingBytes: 100, hydrated: false, below: ["nbd://there/x"] };
  }
  async stream({ speed }: { speed?: number }): Promise<void> {
    this.streaming.resolve(speed);
  }
  async cancelStream(): Promise<void> {}
  async setSpeed(): Promise<void> {}
  waitsOut(error: unknown): readonly string[] | undefined {
    return error === this.away ? ["nbd://there/x"] : undefined;
  }

  tell(state: "running" | "waiting", copiedBytes: number, code: "source-lost" | "no-space" = "source-lost"): void {
    const progress: StreamProgress = {
      ...{ state, offset: copiedBytes, length: 100, localBytes: 0, zeroBytes: 0, missingBytes: 100 - copiedBytes },
      ...{ copiedBytes, rate: 0, throttled: false, window: 0, warnings: [] },
      ...(state === "waiting" && { reason: { code, message: code, retryIn: 1 } }),
    };
    this.emit("progress", progress);
  }
}

async function runnerOn(t: TestContext, store: MemoryStore) {
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
  return { events, runner };
}

async function streaming(t: TestContext) {
  const store = new MemoryStore();
  const { events, runner } = await runnerOn(t, store);
  const disk = new FakeDisk();
  runner.begin();
  runner.attach("vm1@1", "vm1", disk);
  await runner.start("vm1@1", { priority: 0 });
  await disk.streaming.promise;
  const told = async () => {
    await events.settled();
    return (await store.events({ limit: 1000 })).map(({ type }) => type.replace("job-", ""));
  };
  return { store, disk, runner, told };
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

/** From now on nothing can be written down. */
function fill(store: MemoryStore): void {
  store.addEvent = async () => {
    throw new Error("no space left");
  };
}

const NOTHING: StreamProgress = {
  ...{ state: "running", offset: 0, length: 0, localBytes: 0, zeroBytes: 0, missingBytes: 0, copiedBytes: 0 },
  ...{ rate: 0, throttled: false, window: 0, warnings: [] },
};

test("a disk that cannot be looked at yet has its stream begun, which waits; what is remembered of it stays", async (t) => {
  const { store, disk, runner } = await streaming(t);
  disk.tell("running", 30);
  runner.stop();
  await runner.settled();
  await store.putSpeedLimit({ place: "nbd://there", speed: 1000 });
  const next = await runnerOn(t, store);
  const later = new FakeDisk();
  later.away = new Error("nobody listens there");
  await next.runner.load();
  next.runner.begin();
  next.runner.attach("vm1@1", "vm1", later);
  assert.equal(await later.streaming.promise, 1000, "it keeps to the limit of its source");
  later.emit("progress", { ...NOTHING, state: "waiting", reason: { code: "shutdown", message: "away", retryIn: 1 } });
  const { state, length, missingBytes, copiedBytes } = next.runner.active("vm1@1")!.record;
  assert.deepEqual([state, length, missingBytes, copiedBytes], ["waiting", 100, 70, 30]);
});

test("a pause that cannot be written down stops the stream, and whoever asked for it is told", async (t) => {
  const { store, disk, runner } = await streaming(t);
  const gate = Promise.withResolvers<void>();
  disk.cancelStream = () => gate.promise;
  fill(store);
  let stopped = false;
  const refused = assert.rejects(
    runner.pause("vm1@1").finally(() => assert.ok(stopped)),
    /no space left/,
  );
  // A rejection that nobody waits for meanwhile ends a process.
  await new Promise(setImmediate);
  stopped = true;
  gate.resolve();
  await refused;
});

test("a disk whose wait cannot be written down is let go of all the same", async (t) => {
  const { store, disk, runner } = await streaming(t);
  let cancelled = false;
  disk.cancelStream = async () => {
    cancelled = true;
  };
  fill(store);
  await runner.detach("vm1@1", "It is closed");
  assert.deepEqual([cancelled, disk.listenerCount("progress")], [true, 0]);
});

test("a stream that is about to begin when its job is cancelled, or when the daemon ends, does not begin", async (t) => {
  for (const end of ["cancel", "stop"] as const) {
    const { runner } = await runnerOn(t, new MemoryStore());
    const disk = new FakeDisk();
    runner.begin();
    runner.attach("vm1@1", "vm1", disk);
    let begun = false;
    disk.stream = async () => {
      begun = true;
    };
    await runner.start("vm1@1", { priority: 0 });
    const looked = Promise.withResolvers<void>();
    const info = disk.info.bind(disk);
    disk.info = () => looked.promise.then(() => info());
    await runner.pause("vm1@1");
    await runner.resume("vm1@1");
    begun = false;
    disk.cancelStream = async () => {
      looked.resolve();
      await new Promise(setImmediate);
    };
    if (end === "cancel") await runner.cancel("vm1@1");
    else runner.stop();
    looked.resolve();
    await new Promise(setImmediate);
    assert.equal(begun, false, end);
  }
});
