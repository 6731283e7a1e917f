import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { memoryImage } from "../../test/support/memory-image.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { MemoryOverlay } from "../../test/support/memory-overlay.ts";
import type { OverlayNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { CopyOnRead, Faults } from "./index.ts";

const MIB = 2 ** 20;
const K64 = 65536;

function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + ((i * 7 + (i >> 9)) % 251);
  return bytes;
}

/** A base that may go wrong. */
function faulty(bytes: Uint8Array, name = "base"): Faults {
  return new Faults(MemoryNode.of(bytes, { name, readOnly: true }));
}

async function bytesAt(node: Pick<OverlayNode, "read">, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length).fill(0xee);
  await node.read(offset, bytes);
  return bytes;
}

/** What was read of a base: "offset+length". */
function reads({ requests }: Faults): string[] {
  return requests.filter(({ operation }) => operation === "read").map(({ offset, length }) => `${offset}+${length}`);
}

/** Lets everything happen that waits for nothing. */
async function quiet(): Promise<void> {
  for (let i = 0; i < 10; i++) await nextTurn();
}

test("readers of one range share a fetch, of whole units, and what they read is kept", async () => {
  const content = pattern(MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: MIB, grain: 4096, backing: base });
  const disk = new CopyOnRead(overlay);
  const ranges = [
    [70_001, 3],
    [K64, 512],
    [70_000, K64],
    [3 * K64 - 1, 1],
  ] as const;
  const found = await Promise.all(ranges.map(([offset, length]) => bytesAt(disk, offset, length)));
  for (const [i, [offset, length]] of ranges.entries()) {
    assert.deepEqual(found[i], content.subarray(offset, offset + length));
  }
  assert.deepEqual(reads(base), [`${K64}+${K64}`, `${2 * K64}+${K64}`]);
  await disk.close();
  assert.deepEqual(disk.counts, { fetched: 2 * K64, kept: 2 * K64 });
  assert.deepEqual(await overlay.extents(0, MIB), [
    { offset: 0, length: K64, kind: "missing", depth: 0 },
    { offset: K64, length: 2 * K64, kind: "data", depth: 0 },
    { offset: 3 * K64, length: MIB - 3 * K64, kind: "missing", depth: 0 },
  ]);
});

test("the guest is answered before anything is kept, and the next reader from what has arrived", async () => {
  const base = faulty(pattern(MIB));
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  let keep: () => void = () => {};
  overlay.beforeCall = () =>
    new Promise((resolve) => {
      keep = resolve;
    });
  const disk = new CopyOnRead(overlay);
  await bytesAt(disk, 0, 512);
  assert.deepEqual(overlay.calls, []);
  await quiet();
  assert.deepEqual(await bytesAt(disk, 4096, 512), pattern(MIB).subarray(4096, 4608));
  assert.deepEqual([reads(base).length, overlay.calls.length], [1, 0]);
  keep();
  await disk.close();
  assert.deepEqual(overlay.calls, [`populate 0 ${K64}`]);
});

const overlays: Record<string, (backing: Faults) => Promise<OverlayNode> | OverlayNode> = {
  memory: (backing) => new MemoryOverlay({ length: MIB, backing }),
  qed: (backing) => memoryImage("qed", { size: MIB, backing }),
  "qcow2 of small clusters": (backing) => memoryImage("qcow2", { size: MIB, backing, options: { cluster_size: "4K" } }),
  "qcow2 with subclusters": (backing) =>
    memoryImage("qcow2", { size: MIB, backing, options: { cluster_size: "64K", extended_l2: "on" } }),
  "qcow2 of large clusters": (backing) =>
    memoryImage("qcow2", { size: MIB, backing, options: { cluster_size: "256K" } }),
};

for (const [name, makeOverlay] of Object.entries(overlays)) {
  for (const when of ["before it arrives", "before it is kept"]) {
    test(`${name}: what a guest does to a range wins over a fetch of it, ${when}`, async () => {
      const expected = pattern(MIB);
      const base = faulty(expected);
      const overlay = await makeOverlay(base);
      const disk = new CopyOnRead(overlay);
      const began = expected.slice(0, 8 * K64);
      const early = when === "before it arrives";
      const lift = early ? base.add({ operations: ["read"], does: "freeze" }) : () => {};
      const reading = bytesAt(disk, 0, 8 * K64);
      await (early ? quiet() : reading);
      lift();
      // Each is seen by the next reader, while the fetch is still under way.
      const writes: [offset: number, length: number, byte: number][] = [
        [0, 512, 0xaa],
        [K64, K64, 0xbb],
        [2 * K64, K64, 0],
        [3 * K64 + 1000, 9000, 0],
      ];
      for (const [offset, length, byte] of writes) {
        if (byte === 0) await disk.writeZeroes(offset, length);
        else await disk.write(offset, new Uint8Array(length).fill(byte));
        expected.fill(byte, offset, offset + length);
        const now = await bytesAt(disk, offset, length);
        assert.ok(
          now.every((found) => found === byte),
          `${length} bytes at ${offset}`,
        );
      }
      const discards = [4 * K64, 5 * K64 + 512];
      for (const offset of discards) await disk.discard(offset, K64);
      base.thaw();
      // That reader began before all of them, and each byte is of one time or another.
      const before = await reading;
      for (const [at, byte] of before.entries()) {
        assert.ok(byte === began[at] || byte === expected[at] || at >= 4 * K64, `the byte at ${at} is ${byte}`);
      }
      for (const offset of discards) {
        const now = await bytesAt(disk, offset, K64);
        assert.ok(now.every((byte, i) => byte === 0 || byte === expected[offset + i]));
        expected.set(now, offset);
      }
      await disk.close();
      assert.deepEqual(await bytesAt(overlay, 0, MIB), expected);
      await overlay.close();
    });
  }
}

test("memory is bounded, and a long read comes to its end", async () => {
  const content = pattern(48 * MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: content.length, backing: base });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const reading = bytesAt(disk, 0, content.length);
  await quiet();
  assert.equal(base.frozen, 8);
  lift();
  base.thaw();
  assert.deepEqual(await reading, content);
  await disk.close();
  assert.ok(base.mostUnderWay <= 8);
  assert.equal(disk.counts.kept, content.length);
});

test("when there is no room nothing is kept for a while, and reads go on", async () => {
  const content = pattern(MIB);
  const clock = new ManualClock();
  let full = true;
  const overlay = new MemoryOverlay({ length: MIB, backing: faulty(content) });
  overlay.beforeCall = () => {
    if (full) throw new StreamdiskError("no-space", "It is full");
  };
  const disk = new CopyOnRead(overlay, { clock });
  for (const offset of [0, K64, 2 * K64]) {
    assert.deepEqual(await bytesAt(disk, offset, K64), content.subarray(offset, offset + K64));
    await quiet();
  }
  await assert.rejects(disk.cache(0, K64), { code: "no-space" });
  full = false;
  await bytesAt(disk, 0, K64);
  await quiet();
  assert.deepEqual(overlay.calls, []);
  await clock.advance(10_000);
  await bytesAt(disk, 0, K64);
  await disk.close();
  assert.deepEqual(overlay.calls, [`populate 0 ${K64}`]);
});

test("a real image without room: reads go on, and it is sound", async () => {
  const content = pattern(MIB);
  const lifts: (() => void)[] = [];
  const overlay = await memoryImage("qcow2", {
    size: MIB,
    backing: faulty(content),
    wrapFile: (file) => {
      const faults = new Faults(file);
      lifts.push(faults.add({ operations: ["write"], after: 4, does: "no-space" }));
      return faults;
    },
  });
  const disk = new CopyOnRead(overlay);
  for (let offset = 0; offset < MIB; offset += K64) {
    assert.deepEqual(await bytesAt(disk, offset, K64), content.subarray(offset, offset + K64));
    await quiet();
  }
  for (const lift of lifts) lift();
  await disk.write(100, new Uint8Array(100));
  content.fill(0, 100, 200);
  await disk.close();
  assert.deepEqual(await bytesAt(overlay, 0, MIB), content);
  const check = await overlay.check();
  assert.equal(check.corruptions, 0);
  await overlay.close();
});

test("without keeping, reads pass through; cache keeps all the same", async () => {
  const content = pattern(MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  const disk = new CopyOnRead(overlay, { keep: false });
  assert.deepEqual(await bytesAt(disk, 5000, 100), content.subarray(5000, 5100));
  assert.deepEqual(reads(base), ["5000+100"]);
  await disk.cache(K64 + 1, 1);
  assert.deepEqual(overlay.calls, [`populate ${K64} ${K64}`]);
});

test("a base that ends early, in the midst of a unit, and a disk that does", async () => {
  const content = pattern(3 * K64 + 1234);
  const base = faulty(content);
  const length = 5 * K64 + 512;
  const overlay = new MemoryOverlay({ length, backing: base });
  const disk = new CopyOnRead(overlay);
  const expected = new Uint8Array(length);
  expected.set(content);
  for (const [offset, size] of [
    [3 * K64 + 1200, 100],
    [3 * K64 + 1234, 1],
    [5 * K64 - 1, 513],
    [0, length],
  ] as const) {
    assert.deepEqual(await bytesAt(disk, offset, size), expected.subarray(offset, offset + size));
  }
  await disk.close();
  assert.deepEqual(await bytesAt(overlay, 0, length), expected);
  assert.deepEqual(overlay.calls, [`populate ${3 * K64} ${K64}`, `populate 0 ${3 * K64}`]);
});

test("what the source says is zero is neither fetched nor kept; zeroes that it calls data are kept as zeroes", async () => {
  const base = new MemoryNode(8 * MIB);
  await base.write(MIB, pattern(1000));
  await base.write(2 * MIB, new Uint8Array(K64));
  const faults = new Faults(base);
  const overlay = new MemoryOverlay({ length: 8 * MIB, backing: faults });
  const disk = new CopyOnRead(overlay);
  const all = await bytesAt(disk, 0, 8 * MIB);
  assert.deepEqual(all, await bytesAt(base, 0, 8 * MIB));
  await disk.cache(0, 8 * MIB);
  await disk.close();
  assert.deepEqual(reads(faults), [`${MIB}+${K64}`, `${2 * MIB}+${K64}`]);
  assert.deepEqual(overlay.calls, [`populate ${MIB} ${K64}`, `zeroes ${2 * MIB} ${K64}`]);
});

test("the link is dropped under a fetch: its readers get what was there", async () => {
  const content = pattern(MIB);
  const base = faulty(content);
  const overlay = await memoryImage("qcow2", { size: MIB, backing: base });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const reading = [bytesAt(disk, 0, 512), bytesAt(disk, 100, 3 * K64)];
  await quiet();
  assert.equal(base.frozen, 2);
  lift();
  await overlay.populate(0, content);
  await overlay.changeBacking(undefined, undefined);
  await base.close();
  const [first, second] = await Promise.all(reading);
  assert.deepEqual(first, content.subarray(0, 512));
  assert.deepEqual(second, content.subarray(100, 100 + 3 * K64));
  assert.deepEqual(await bytesAt(disk, 0, MIB), content);
  await disk.close();
  await overlay.close();
});

test("the link is changed under a fetch: who comes later has nothing to do with it when it fails", async () => {
  const content = pattern(MIB);
  const [middle, base] = [faulty(content), faulty(content)];
  const overlay = new MemoryOverlay({ length: MIB, backing: middle });
  const disk = new CopyOnRead(overlay);
  middle.add({ operations: ["read"], does: "freeze" });
  const early = bytesAt(disk, 0, 512);
  await quiet();
  assert.equal(middle.frozen, 1);
  await overlay.changeBacking({ reference: "base", format: "raw" }, base);
  const late = [bytesAt(disk, 1024, 512), bytesAt(disk, 512, 2 * K64)];
  await quiet();
  await middle.close();
  middle.thaw();
  assert.deepEqual(await early, content.subarray(0, 512));
  assert.deepEqual(await late[0], content.subarray(1024, 1536));
  assert.deepEqual(await late[1], content.subarray(512, 512 + 2 * K64));
  await disk.close();
});

test("the link is dropped under requests that go below without a fetch, and under cache: they are done all the same", async () => {
  const content = pattern(MIB);
  content.fill(0, 8 * K64, 9 * K64);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  const disk = new CopyOnRead(overlay);
  const passing = new CopyOnRead(overlay, { keep: false });
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const caching = disk.cache(0, K64);
  const writing = disk.write(8 * K64 + 512, new Uint8Array(512).fill(9));
  const zeroing = disk.writeZeroes(8 * K64 + 1024, 512);
  const reading = bytesAt(passing, 9 * K64, 512);
  await quiet();
  assert.equal(base.frozen, 4);
  lift();
  await overlay.populate(0, content);
  await overlay.changeBacking(undefined, undefined);
  await base.close();
  await Promise.all([caching, writing, zeroing]);
  assert.deepEqual(await reading, content.subarray(9 * K64, 9 * K64 + 512));
  content.fill(9, 8 * K64 + 512, 8 * K64 + 1024);
  assert.deepEqual(await bytesAt(disk, 0, MIB), content);
});

test("the link is dropped between a look and the fetch: what is not missing any more is not taken for zero", async () => {
  const content = pattern(48 * MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: content.length, backing: base });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const filling = bytesAt(disk, 0, 20 * MIB);
  const waiting = bytesAt(disk, 40 * MIB, 512);
  await quiet();
  lift();
  await overlay.populate(0, content);
  await overlay.changeBacking(undefined, undefined);
  base.thaw();
  await base.close();
  assert.deepEqual(await waiting, content.subarray(40 * MIB, 40 * MIB + 512));
  assert.deepEqual(await filling, content.subarray(0, 20 * MIB));
});

test("a source error is every reader's, of that fetch alone", async () => {
  const content = pattern(MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  const disk = new CopyOnRead(overlay);
  base.add({ operations: ["read"], times: 1, does: "source-lost" });
  const results = await Promise.allSettled([bytesAt(disk, 0, 1), bytesAt(disk, 1, 1), bytesAt(disk, K64, 1)]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ["rejected", "rejected", "fulfilled"],
  );
  assert.deepEqual(await bytesAt(disk, 1, 1), content.subarray(1, 2));
  await disk.close();
  assert.deepEqual(overlay.calls, [`populate ${K64} ${K64}`, `populate 0 ${K64}`]);
});

test("a reader that is not wanted any more ends; the fetch goes on", async () => {
  const content = pattern(MIB);
  const base = faulty(content);
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  const disk = new CopyOnRead(overlay);
  base.add({ operations: ["read"], does: "freeze" });
  const stop = new AbortController();
  const target = new Uint8Array(512).fill(0xee);
  const reading = disk.read(0, target, stop.signal);
  const caching = disk.cache(0, 512, stop.signal);
  await quiet();
  stop.abort();
  await assert.rejects(reading, { name: "AbortError" });
  await assert.rejects(caching, { name: "AbortError" });
  const other = bytesAt(disk, 0, 512);
  await quiet();
  target.fill(0xdd);
  base.thaw();
  assert.deepEqual(await other, content.subarray(0, 512));
  assert.ok(target.every((byte) => byte === 0xdd));
  await disk.close();
  assert.deepEqual(overlay.calls, [`populate 0 ${K64}`]);
});

test("closing waits for what is on its way, and nothing begins after it", async () => {
  const base = faulty(pattern(MIB));
  const overlay = new MemoryOverlay({ length: MIB, backing: base });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const reading = bytesAt(disk, 0, 512);
  await quiet();
  let closed = false;
  const closing = disk.close().then(() => {
    closed = true;
  });
  await assert.rejects(bytesAt(disk, 512, 512), { code: "shutdown" });
  await assert.rejects(disk.cache(512, 512), { code: "shutdown" });
  await quiet();
  assert.equal(closed, false);
  lift();
  base.thaw();
  await Promise.all([reading, closing]);
  assert.deepEqual(overlay.calls, [`populate 0 ${K64}`]);
});

test("a disk that has grown under a fetch is read to its new end", async () => {
  const content = pattern(K64 + 1000);
  const base = faulty(content);
  const overlay = await memoryImage("qcow2", { size: K64 + 1024, backing: base, options: { cluster_size: "4K" } });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const early = bytesAt(disk, K64, 1024);
  await quiet();
  lift();
  await disk.resize(2 * K64);
  const late = bytesAt(disk, K64, K64);
  await quiet();
  base.thaw();
  const expected = new Uint8Array(K64);
  expected.set(content.subarray(K64));
  assert.deepEqual(await early, expected.subarray(0, 1024));
  assert.deepEqual(await late, expected);
  await disk.close();
  assert.deepEqual(await bytesAt(overlay, K64, K64), expected);
  await overlay.close();
});

test("a disk that has become shorter under a fetch, and long again, shows nothing of its base there", async () => {
  const content = pattern(4 * K64);
  const base = faulty(content);
  const overlay = await memoryImage("qcow2", { size: 4 * K64, backing: base, options: { cluster_size: "4K" } });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const reading = bytesAt(disk, 0, 4 * K64);
  await quiet();
  lift();
  await disk.resize(K64 + 512);
  base.thaw();
  await reading;
  await quiet();
  await disk.resize(4 * K64);
  content.fill(0, K64 + 512);
  assert.deepEqual(await bytesAt(disk, 0, 4 * K64), content);
  await disk.close();
  assert.equal((await overlay.check()).corruptions, 0);
  await overlay.close();
});

test("a disk that has become shorter under a fetch keeps what is left of it", async () => {
  const content = pattern(4 * K64);
  const base = faulty(content);
  const overlay = await memoryImage("qcow2", { size: 4 * K64, backing: base, options: { cluster_size: "4K" } });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const caching = disk.cache(0, 512);
  await quiet();
  lift();
  await disk.resize(10_000);
  base.thaw();
  await caching;
  await disk.close();
  assert.deepEqual(disk.counts, { fetched: K64, kept: 10_000 });
  assert.deepEqual(await bytesAt(overlay, 0, 9728), content.subarray(0, 9728));
  await overlay.close();
});

test("of a disk that has become longer under a fetch, what was its end is fetched again", async () => {
  const content = pattern(4 * K64);
  const base = faulty(content);
  const overlay = await memoryImage("qcow2", { size: 10_240, backing: base, options: { cluster_size: "4K" } });
  const disk = new CopyOnRead(overlay);
  const lift = base.add({ operations: ["read"], does: "freeze" });
  const caching = disk.cache(0, 512);
  await quiet();
  lift();
  await disk.resize(4 * K64);
  base.thaw();
  await caching;
  content.fill(0, 10_240);
  assert.deepEqual(await bytesAt(disk, 0, 4 * K64), content);
  await disk.close();
  assert.equal((await overlay.check()).corruptions, 0);
  await overlay.close();
});

test("ranges outside the disk are refused", async () => {
  const disk = new CopyOnRead(new MemoryOverlay({ length: MIB, backing: faulty(pattern(MIB)) }));
  for (const [offset, length] of [
    [MIB, 1],
    [-1, 1],
    [0, MIB + 1],
  ] as const) {
    await assert.rejects(disk.read(offset, new Uint8Array(length)), { code: "invalid-argument" });
    await assert.rejects(disk.cache(offset, length), { code: "invalid-argument" });
  }
  await disk.read(MIB, new Uint8Array(0));
});

test("a disk that becomes shorter while its base is looked at: the read fails, and leaves nothing behind", async () => {
  for (const length of [512, 2 * K64]) {
    const content = pattern(4 * K64);
    const base = faulty(content);
    const overlay = await memoryImage("qcow2", { size: 4 * K64, backing: base, options: { cluster_size: "4K" } });
    const disk = new CopyOnRead(overlay);
    const lift = base.add({ operations: ["map"], does: "freeze" });
    const reading = bytesAt(disk, K64 + 512, length);
    const failing = assert.rejects(reading, { code: "invalid-argument" });
    await quiet();
    assert.equal(base.frozen, 1);
    await disk.resize(K64);
    lift();
    base.thaw();
    await failing;
    assert.deepEqual(reads(base), []);
    await disk.resize(4 * K64);
    assert.deepEqual(await bytesAt(disk, 3 * K64, 512), new Uint8Array(512));
    await disk.close();
    await overlay.close();
  }
});
