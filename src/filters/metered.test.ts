import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { LatencyHistogram } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { Metered } from "./metered.ts";

test("reads are counted with their bytes and times, failures with the last of them", async () => {
  const clock = new ManualClock();
  const source = MemoryNode.of(Buffer.alloc(8192, 1));
  const read = source.read.bind(source);
  source.read = async (offset, target) => {
    await clock.sleep(20);
    await read(offset, target);
  };
  const metered = new Metered(source, clock);
  await clock.runUntil(metered.read(0, new Uint8Array(4096)), 1);
  await metered.extents(0, 8192);
  source.read = async () => {
    throw new StreamdiskError("source-lost", "It is gone");
  };
  await assert.rejects(metered.read(0, new Uint8Array(512)), { code: "source-lost" });
  source.read = async () => {
    throw new StreamdiskError("shutdown", "It is closed");
  };
  await assert.rejects(metered.read(0, new Uint8Array(512)), { code: "shutdown" });
  const { requests, bytes, errors, lastError, latency } = structuredClone(metered.counts);
  assert.deepEqual(
    [requests, bytes, errors, lastError?.code, lastError?.message],
    [4, 4096, 1, "source-lost", "It is gone"],
  );
  const times = new LatencyHistogram(latency);
  assert.equal(times.count, 1);
  assert.ok((times.percentile(0.5) ?? 0) >= 20 && (times.percentile(0.5) ?? 0) < 23);
});
