import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { MemoryOverlay } from "../../test/support/memory-overlay.ts";
import { rng } from "../../test/support/seed.ts";
import type { BlockNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { overlayTarget, StreamJob, type StreamProgress } from "./index.ts";

const MIB = 2 ** 20;
const K64 = 65536;

/** Data nearly everywhere, with zeroes written and holes left. */
function base(length: number, name = "base"): MemoryNode {
  const random = rng(`stream ${name} ${length}`);
  const node = new MemoryNode(length, { name });
  for (let offset = 0; offset < length; offset += K64) {
    const lot = random();
    if (lot < 0.3) continue;
    const bytes = new Uint8Array(Math.min(K64, length - offset));
    if (lot < 0.8) for (let i = 0; i < bytes.length; i++) bytes[i] = 1 + ((offset + i * 7) % 251);
    void node.write(offset, bytes);
  }
  return node;
}

async function contents(node: BlockNode): Promise<Buffer> {
  const bytes = Buffer.alloc(node.length);
  await node.read(0, bytes);
  return bytes;
}

async function collect(job: StreamJob): Promise<StreamProgress[]> {
  const all: StreamProgress[] = [];
  for await (const progress of job) all.push(progress);
  return all;
}

test("streams all, flushes, drops the link, and the disk reads as before", async () => {
  const length = 5 * MIB + 12345;
  const overlay = new MemoryOverlay({ length, backing: base(4 * MIB + 512) });
  await overlay.write(1000, Buffer.from("guest"));
  await overlay.writeZeroes(2 * MIB, K64);
  const before = await contents(overlay);
  const progress = await collect(new StreamJob(overlayTarget(overlay)));
  assert.deepEqual(overlay.calls.slice(-2), ["flush", "link nothing"]);
  assert.equal(overlay.backing, undefined);
  assert.ok(before.equals(await contents(overlay)));
  const last = progress.at(-1)!;
  assert.equal(last.state, "completed");
  assert.equal(last.missingBytes, 0);
  assert.equal(last.offset, length);
  assert.equal(last.localBytes + last.zeroBytes, length);
});

test("fetches no hole and nothing local, and makes zeroes of zeroes", async () => {
  const backing = new MemoryNode(4 * MIB, { name: "base" });
  await backing.write(MIB, Buffer.alloc(K64, 1));
  await backing.write(2 * MIB, Buffer.alloc(2 * K64));
  const reads: number[] = [];
  const read = backing.read.bind(backing);
  backing.read = (offset, target, signal) => {
    reads.push(offset, target.length);
    return read(offset, target, signal);
  };
  const overlay = new MemoryOverlay({ length: 4 * MIB, backing });
  await new StreamJob(overlayTarget(overlay)).run();
  assert.deepEqual(reads, [MIB, K64, 2 * MIB, 2 * K64]);
  assert.deepEqual(overlay.calls, [`populate ${MIB} ${K64}`, `zeroes ${2 * MIB} ${2 * K64}`, "flush", "link nothing"]);
});

test("without zero detection zeroes are copied as data", async () => {
  const backing = new MemoryNode(MIB, { name: "base" });
  await backing.write(0, Buffer.alloc(K64));
  const overlay = new MemoryOverlay({ length: MIB, backing });
  await new StreamJob(overlayTarget(overlay, { detectZeroes: false })).run();
  assert.equal(overlay.calls[0], `populate 0 ${K64}`);
});

test("with a base, zeroes above it are written and what it answers is left to it", async () => {
  const bottom = base(4 * MIB, "bottom");
  const short = new MemoryOverlay({ length: 3 * MIB, backing: bottom, grain: 4096, name: "middle" });
  await short.write(MIB + 5000, Buffer.alloc(10_000, 7));
  await short.writeZeroes(2 * MIB, 8192);
  const overlay = new MemoryOverlay({ length: 4 * MIB, backing: short });
  const before = await contents(overlay);
  const reference = { reference: "bottom", format: "raw" };
  const job = new StreamJob(overlayTarget(overlay, { base: { node: bottom, reference } }));
  await job.run();
  assert.equal(overlay.backing, bottom);
  assert.equal(overlay.backingReference, reference);
  assert.ok(before.equals(await contents(overlay)));
  // Past the end of the middle the disk reads as zeroes, though the bottom has data there.
  assert.ok(overlay.calls.includes(`zeroes ${3 * MIB} ${MIB}`));
  const { localBytes, zeroBytes } = job.progress;
  assert.equal(localBytes + zeroBytes, MIB + 2 * K64);
});

test("what the guest writes meanwhile stays", async () => {
  const overlay = new MemoryOverlay({ length: 2 * MIB, backing: MemoryNode.of(Buffer.alloc(2 * MIB, 1)) });
  overlay.beforeCall = async (call) => {
    if (call.startsWith("populate 0")) await overlay.write(10, Buffer.alloc(K64, 9));
  };
  await new StreamJob(overlayTarget(overlay)).run();
  const after = await contents(overlay);
  assert.ok(after.subarray(10, 10 + K64).every((byte) => byte === 9));
  assert.ok(after.subarray(10 + K64).every((byte) => byte === 1));
});

test("an image without a backing file is finished at once", async () => {
  const overlay = new MemoryOverlay({ length: MIB });
  const progress = await collect(new StreamJob(overlayTarget(overlay)));
  assert.deepEqual(overlay.calls, []);
  assert.equal(progress.at(-1)?.zeroBytes, MIB);
});

test("requests run in parallel up to the window, in ascending order", async () => {
  const backing = MemoryNode.of(Buffer.alloc(16 * MIB, 1));
  const overlay = new MemoryOverlay({ length: 16 * MIB, backing });
  const begun: number[] = [];
  let under = 0;
  let most = 0;
  overlay.beforeCall = async (call) => {
    if (!call.startsWith("populate")) return;
    begun.push(Number(call.split(" ")[1]));
    most = Math.max(most, ++under);
    await new Promise((resolve) => setImmediate(resolve));
    under--;
  };
  await new StreamJob(overlayTarget(overlay), { window: 3 * MIB, chunk: 512 * 1024 }).run();
  assert.equal(most, 6);
  assert.equal(begun.length, 32);
  assert.deepEqual(
    begun,
    begun.toSorted((a, b) => a - b),
  );
});

test("a window smaller than a request makes the requests smaller", async () => {
  const overlay = new MemoryOverlay({ length: MIB, backing: MemoryNode.of(Buffer.alloc(MIB, 1)) });
  await new StreamJob(overlayTarget(overlay), { window: 100_000 }).run();
  assert.equal(overlay.calls[0], `populate 0 ${2 * K64}`);
});

test("the speed limit holds", async () => {
  const clock = new ManualClock();
  const overlay = new MemoryOverlay({ length: 10 * MIB, backing: MemoryNode.of(Buffer.alloc(10 * MIB, 1)) });
  const job = new StreamJob(overlayTarget(overlay), { clock, speed: MIB });
  const ended = job.run();
  await clock.advance(4000);
  assert.ok(job.progress.copiedBytes >= 4 * MIB && job.progress.copiedBytes <= 6 * MIB);
  assert.ok(Math.abs(job.progress.rate - MIB) < MIB / 2, `rate ${job.progress.rate}`);
  assert.equal(job.progress.throttled, true);
  await clock.runUntil(ended);
  assert.ok(clock.now() >= 9000);
});

test("mappings are handed over every 2 s and made durable every 5 s", async () => {
  const clock = new ManualClock();
  const overlay = new MemoryOverlay({ length: 20 * MIB, backing: MemoryNode.of(Buffer.alloc(20 * MIB, 1)) });
  const ended = new StreamJob(overlayTarget(overlay), { clock, speed: 2 * MIB }).run();
  await clock.runUntil(ended);
  const kinds = overlay.calls.filter((call) => !call.startsWith("populate"));
  assert.deepEqual(kinds, ["checkpoint", "checkpoint", "flush", "checkpoint", "checkpoint", "flush", "link nothing"]);
});

test("a checkpoint comes before 64 MiB have gathered, however fast it goes", async () => {
  const overlay = new MemoryOverlay({ length: 100 * MIB, backing: MemoryNode.of(Buffer.alloc(100 * MIB, 1)) });
  let gathered = 0;
  let most = 0;
  overlay.beforeCall = async (call) => {
    if (call === "checkpoint" || call === "flush") {
      const covered = gathered;
      await new Promise((resolve) => setTimeout(resolve, 5));
      gathered -= covered;
    } else {
      gathered += MIB;
      most = Math.max(most, gathered);
    }
  };
  await new StreamJob(overlayTarget(overlay), { window: 8 * MIB }).run();
  assert.ok(most <= (64 + 8) * MIB, `${most}`);
});

test("an error stops the stream: what was fetched is durable and the message says where", async () => {
  const backing = MemoryNode.of(Buffer.alloc(8 * MIB, 1), { name: "base" });
  const read = backing.read.bind(backing);
  backing.read = (offset, target, signal) => {
    if (offset >= 4 * MIB) throw new StreamdiskError("io", "Could not read 1048576 bytes at 4194304 of 'base': gone");
    return read(offset, target, signal);
  };
  const overlay = new MemoryOverlay({ length: 8 * MIB, backing });
  const job = new StreamJob(overlayTarget(overlay));
  await assert.rejects(collect(job), (error) => {
    assert.ok(error instanceof StreamdiskError);
    assert.equal(error.code, "source-lost");
    assert.match(
      error.message,
      /'base': gone\. The stream stopped at 4194304 of 8388608 bytes of 'overlay'\. What was fe/,
    );
    assert.equal(error.context.offset, 4 * MIB);
    return true;
  });
  assert.equal(overlay.calls.at(-1), "flush");
  assert.equal(job.progress.state, "failed");
  assert.equal(job.progress.reason?.code, "source-lost");
  // The next run goes on from there.
  backing.read = read;
  const again = new StreamJob(overlayTarget(overlay));
  await again.run();
  assert.equal(again.progress.copiedBytes, 4 * MIB);
});

test("waits with growing intervals for a source to come back, and goes on", async () => {
  const clock = new ManualClock();
  const backing = MemoryNode.of(Buffer.alloc(8 * MIB, 1), { name: "base" });
  const read = backing.read.bind(backing);
  let lost = true;
  backing.read = async (offset, target, signal) => {
    if (lost && offset >= 2 * MIB) throw new StreamdiskError("source-lost", "The source is gone");
    return read(offset, target, signal);
  };
  const overlay = new MemoryOverlay({ length: 8 * MIB, backing });
  const job = new StreamJob(overlayTarget(overlay), { clock, retryFor: 60_000 });
  const ended = job.run();
  await clock.advance(5000);
  const { state, reason } = job.progress;
  assert.equal(state, "waiting");
  assert.deepEqual(reason, {
    code: "source-lost",
    message: "The source is gone",
    offset: 2 * MIB,
    length: MIB,
    retryIn: 4000,
  });
  lost = false;
  await clock.runUntil(ended);
  assert.equal(job.progress.state, "completed");
  assert.deepEqual(
    clock.slept.filter((ms) => ms !== 200),
    [250, 500, 1000, 2000, 4000],
  );
});

test("gives up after retryFor, counted from when it last got anywhere", async () => {
  const clock = new ManualClock();
  const overlay = new MemoryOverlay({ length: 8 * MIB, backing: MemoryNode.of(Buffer.alloc(8 * MIB, 1)) });
  overlay.beforeCall = (call) => {
    if (call.startsWith("populate")) throw new StreamdiskError("no-space", "No room");
  };
  const job = new StreamJob(overlayTarget(overlay), { clock, retryFor: 1000 });
  await assert.rejects(clock.runUntil(job.run()), { code: "no-space" });
  assert.ok(clock.now() >= 1000 && clock.now() < 1300, `${clock.now()}`);
});

test("an error that cannot pass is not waited for", async () => {
  const overlay = new MemoryOverlay({ length: MIB, backing: MemoryNode.of(Buffer.alloc(MIB, 1)) });
  overlay.beforeCall = () => {
    throw new StreamdiskError("invalid-image", "Broken");
  };
  await assert.rejects(new StreamJob(overlayTarget(overlay), { retryFor: 1e9 }).run(), { code: "invalid-image" });
});

test("an abort ends it as cancelled, durable, and the iterator throws the reason", async () => {
  const overlay = new MemoryOverlay({ length: 64 * MIB, backing: MemoryNode.of(Buffer.alloc(64 * MIB, 1)) });
  const controller = new AbortController();
  const reason = new Error("enough");
  overlay.beforeCall = async (call) => {
    if (call === `populate ${8 * MIB} ${MIB}`) controller.abort(reason);
  };
  const job = new StreamJob(overlayTarget(overlay), { signal: controller.signal, window: 4 * MIB });
  await assert.rejects(collect(job), reason);
  assert.equal(job.progress.state, "cancelled");
  assert.equal(job.progress.reason?.code, "cancelled");
  assert.match(job.progress.reason?.message ?? "", /at \d+ of 67108864 bytes/);
  assert.equal(overlay.calls.at(-1), "flush");
  assert.ok(job.progress.missingBytes > 40 * MIB);
  assert.ok(overlay.backing !== undefined);
});

test("leaving the loop cancels", async () => {
  const overlay = new MemoryOverlay({ length: 64 * MIB, backing: MemoryNode.of(Buffer.alloc(64 * MIB, 1)) });
  overlay.beforeCall = () => new Promise((resolve) => setImmediate(resolve));
  const job = new StreamJob(overlayTarget(overlay));
  for await (const progress of job) if (progress.state === "running") break;
  assert.equal(job.progress.state, "cancelled");
  assert.ok(job.progress.missingBytes > 0);
});

test("an aborted signal fetches nothing", async () => {
  const overlay = new MemoryOverlay({ length: MIB, backing: MemoryNode.of(Buffer.alloc(MIB, 1)) });
  const job = new StreamJob(overlayTarget(overlay), { signal: AbortSignal.abort() });
  await assert.rejects(job.run(), { name: "AbortError" });
  assert.deepEqual(overlay.calls, []);
});

test("pauses with everything durable, and resumes", async () => {
  const overlay = new MemoryOverlay({ length: 32 * MIB, backing: MemoryNode.of(Buffer.alloc(32 * MIB, 1)) });
  const job = new StreamJob(overlayTarget(overlay), { window: 2 * MIB });
  overlay.beforeCall = (call) => {
    if (call === `populate ${8 * MIB} ${MIB}`) job.pause();
  };
  const states: string[] = [];
  for await (const { state } of job) {
    states.push(state);
    if (state === "paused") {
      assert.equal(overlay.calls.at(-1), "flush");
      job.resume();
    }
  }
  assert.deepEqual(states.filter((state, index) => state !== states[index - 1]).slice(-4), [
    "running",
    "paused",
    "running",
    "completed",
  ]);
});

test("warns when there is no room for what is to be fetched", async () => {
  const overlay = new MemoryOverlay({ length: 2 * MIB, backing: MemoryNode.of(Buffer.alloc(MIB, 1)) });
  const job = new StreamJob(overlayTarget(overlay), { freeSpace: async () => 1000 });
  await job.run();
  assert.deepEqual(job.progress.warnings, [
    "Up to 1048576 bytes are to be fetched into 'overlay', and its file system has room for 1000",
  ]);
});

test("an image whose clusters stay missing is no endless loop", async () => {
  const overlay = new MemoryOverlay({ length: MIB, backing: MemoryNode.of(Buffer.alloc(MIB, 1)) });
  overlay.populate = async () => 0;
  await assert.rejects(new StreamJob(overlayTarget(overlay)).run(), { code: "invalid-image" });
});

test("a source that shows more data the second time is fetched from until there is no more", async () => {
  const backing = MemoryNode.of(Buffer.alloc(4 * MIB, 1));
  const { extents } = backing;
  let shown = MIB;
  backing.extents = async (offset, length) => {
    const kind = offset < shown ? "data" : "zero";
    const end = kind === "data" ? Math.min(shown, offset + length) : offset + length;
    if (end === 4 * MIB) shown += MIB;
    return shown > 4 * MIB ? extents.call(backing, offset, length) : [{ offset, length: end - offset, kind, depth: 0 }];
  };
  const overlay = new MemoryOverlay({ length: 4 * MIB, backing });
  await new StreamJob(overlayTarget(overlay)).run();
  assert.ok(overlay.calls.filter((call) => call.startsWith("populate")).length > 1);
  assert.equal(overlay.calls.at(-1), "link nothing");
});

test("refuses a speed, a window and a chunk that make no sense", () => {
  const target = overlayTarget(new MemoryOverlay({ length: MIB }));
  for (const options of [{ speed: 0 }, { window: -1 }, { chunk: Number.NaN }]) {
    assert.throws(() => new StreamJob(target, options), { code: "invalid-argument" });
  }
});

test("the speed can be changed while the job runs", async () => {
  const clock = new ManualClock();
  const overlay = new MemoryOverlay({ length: 4 * MIB, backing: base(4 * MIB) });
  const job = new StreamJob(overlayTarget(overlay), { clock, speed: 1, chunk: K64 });
  const running = job.run();
  await clock.advance(10_000);
  const { copiedBytes } = job.progress;
  assert.ok(copiedBytes <= 2 * K64);
  assert.throws(() => job.setSpeed(0), { code: "invalid-argument" });
  job.setSpeed(undefined);
  await clock.runUntil(running);
  assert.equal(job.progress.state, "completed");
  assert.ok(clock.now() < 15_000);
});

test("a stream whose source is slower than its speed is not held back by it", async () => {
  const clock = new ManualClock();
  const source = MemoryNode.of(Buffer.alloc(8 * MIB, 1));
  const read = source.read.bind(source);
  source.read = async (offset, target) => {
    await clock.sleep(1000);
    await read(offset, target);
  };
  const overlay = new MemoryOverlay({ length: 8 * MIB, backing: source });
  const job = new StreamJob(overlayTarget(overlay), { clock, speed: 4 * MIB, window: MIB });
  const running = job.run();
  await clock.advance(4000);
  assert.equal(job.progress.throttled, false);
  job.setSpeed(MIB / 4);
  await clock.advance(3000);
  assert.equal(job.progress.throttled, true);
  job.cancel();
  await assert.rejects(clock.runUntil(running));
});
