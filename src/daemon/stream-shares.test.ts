/** Real streams of disks that are nowhere, by a clock that the test moves: what passes is counted, not timed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { StreamJob, type StreamTarget } from "../stream/index.ts";
import { SpeedLimits } from "./speed-limits.ts";
import { StreamShares } from "./stream-shares.ts";

const MIB = 2 ** 20;
const NEAR = "nbd://near/disk";
const FAR = "nbd://far/disk";

/** A disk that lacks everything, for ever. */
class EndlessTarget implements StreamTarget {
  readonly name = "endless";
  readonly length = 2 ** 50;
  readonly grain = 65536;
  readonly #clock: ManualClock;
  readonly #able: number;

  /** @param able bytes a second that its source gives of one request */
  constructor(clock: ManualClock, able: number) {
    this.#clock = clock;
    this.#able = able;
  }

  async *extents(offset: number, length: number) {
    yield { offset, length, kind: "fetch" } as const;
  }

  async populate(_offset: number, length: number) {
    await this.#clock.sleep((length * 1000) / this.#able);
    return { data: length, zero: 0 };
  }

  async clear(_offset: number, length: number) {
    return { data: 0, zero: length };
  }

  async checkpoint(): Promise<void> {}
  async flush(): Promise<void> {}
  async finish(): Promise<void> {}
}

class Scene {
  readonly clock = new ManualClock();
  readonly limits: SpeedLimits;
  readonly shares: StreamShares;
  readonly #jobs = new Map<string, StreamJob>();

  private constructor(limits: SpeedLimits) {
    this.limits = limits;
    this.shares = new StreamShares(limits, this.clock);
  }

  static async of(settings: Parameters<typeof SpeedLimits.of>[0]): Promise<Scene> {
    return new Scene(await SpeedLimits.of(settings, new MemoryStore()));
  }

  /** @param able how fast its source is */
  async start(
    id: string,
    { source = NEAR, speed, able = 64 * MIB }: { source?: string; speed?: number; able?: number } = {},
  ) {
    await this.shares.join(id, {
      speed,
      sources: [source],
      begin: async (share) => {
        const limit = share === undefined ? {} : { speed: share };
        const job = new StreamJob(new EndlessTarget(this.clock, able), { clock: this.clock, window: MIB, ...limit });
        this.#jobs.set(id, job);
        this.#listen(id, job).catch(() => {});
      },
      setSpeed: async (share) => this.#job(id).setSpeed(share),
    });
  }

  async #listen(id: string, job: StreamJob): Promise<void> {
    for await (const progress of job) this.shares.hear(id, progress);
  }

  #job(id: string): StreamJob {
    const job = this.#jobs.get(id);
    assert.ok(job, `${id} streams`);
    return job;
  }

  /** MiB that each fetches within some seconds. */
  async within(seconds: number): Promise<number[]> {
    const all = [...this.#jobs.values()];
    const before = all.map((job) => job.progress.copiedBytes);
    await this.clock.advance(seconds * 1000);
    return all.map((job, at) => Math.round((job.progress.copiedBytes - (before[at] ?? 0)) / MIB));
  }

  async end(): Promise<void> {
    this.shares.close();
    for (const [id, job] of this.#jobs) {
      this.shares.leave(id);
      job.cancel();
      await this.clock.runUntil(job.run().catch(() => {}));
    }
  }
}

function near(found: readonly number[], expected: readonly number[]): void {
  const close =
    found.length === expected.length && found.every((value, at) => Math.abs(value - (expected[at] ?? 0)) <= 2);
  assert.ok(close, `${found.join(", ")} MiB, and not about ${expected.join(", ")}`);
}

test("two streams of one source get half each, and not more than its limit together", async () => {
  const scene = await Scene.of({ sourceSpeed: 10 * MIB });
  await scene.start("a");
  near(await scene.within(4), [40]);
  await scene.start("b");
  near(await scene.within(10), [50, 50]);
  await scene.end();
});

test("who is slow leaves the rest to others, and gets its part back when it can use it", async () => {
  const scene = await Scene.of({ hostSpeed: 10 * MIB });
  await scene.start("slow", { able: 2 * MIB });
  await scene.start("quick", { source: FAR });
  await scene.within(8);
  near(await scene.within(10), [20, 75]);
  await scene.start("third", { source: FAR });
  await scene.within(4);
  near(await scene.within(10), [20, 38, 38]);
  await scene.end();
});

test("a stream's own speed stays its bound, whatever it is changed to", async () => {
  const scene = await Scene.of({ hostSpeed: 12 * MIB });
  await scene.start("a", { speed: MIB });
  await scene.start("b");
  await scene.within(4);
  near(await scene.within(10), [10, 110]);
  await scene.shares.setSpeed("a", undefined);
  await scene.within(4);
  near(await scene.within(10), [60, 60]);
  await scene.end();
});

test("the limits of a source and of all hold at once, and are changed while streams run", async () => {
  const scene = await Scene.of({ sources: { "nbd://far": { speed: 2 * MIB } }, hostSpeed: 20 * MIB });
  await scene.start("far 1", { source: FAR });
  await scene.start("far 2", { source: FAR });
  await scene.start("near");
  await scene.within(4);
  near(await scene.within(10), [10, 10, 180]);
  await scene.limits.set("nbd://far", null);
  await scene.limits.set("all", 6 * MIB);
  await scene.shares.divide();
  await scene.within(2);
  near(await scene.within(10), [20, 20, 20]);
  await scene.limits.set("all", null);
  await scene.shares.divide();
  assert.equal(scene.shares.shareOf("near"), undefined);
  await scene.end();
});

test("within any time no more passes than the limit, a tenth of a second's worth, and a request a stream", async () => {
  const scene = await Scene.of({ hostSpeed: 8 * MIB });
  let seconds = 0;
  let sum = 0;
  const names = ["a", "b", "c", "d"];
  for (const name of names) {
    await scene.start(name);
    for (let i = 0; i < 6; i++) {
      sum += (await scene.within(0.5)).reduce((all, one) => all + one, 0);
      seconds += 0.5;
      assert.ok(sum <= 8 * (seconds + 0.1) + names.length, `${sum} MiB in ${seconds} s`);
    }
  }
  assert.ok(sum >= 8 * seconds * 0.9, `${sum} MiB in ${seconds} s`);
  await scene.end();
});

test("one that has left leaves its part, also while its turn comes", async () => {
  const scene = await Scene.of({ hostSpeed: 10 * MIB });
  await scene.start("a");
  const begun = scene.start("b");
  scene.shares.leave("b");
  await begun;
  near(await scene.within(5), [50]);
  assert.equal(scene.shares.shareOf("b"), undefined);
  await scene.end();
});
