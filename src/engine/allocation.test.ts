import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { MemoryNode } from "../../test/support/memory-node.ts";
import type { Extent } from "../block/index.ts";
import { AllocationCount } from "./allocation.ts";

const LENGTH = 1024 * 1024;

/** An image whose tables take their time, and of which so much is data. */
class SlowImage extends MemoryNode {
  data = 0;
  walks = 0;
  failing = false;
  readonly clock = new ManualClock();
  takes = 0;

  override async extents(_offset: number, length: number): Promise<Extent[]> {
    this.walks++;
    if (this.failing) throw new Error("no");
    const data = this.data;
    await this.clock.advance(this.takes);
    return [
      { offset: 0, length: data, kind: "data", depth: 0 },
      { offset: data, length: length - data, kind: "missing", depth: 0 },
    ];
  }
}

function begin() {
  const image = new SlowImage(LENGTH, { grows: false });
  const count = new AllocationCount(image, () => String(image.data), image.clock);
  return { image, count };
}

test("what has not changed is not counted again, what has changed is", async () => {
  const { image, count } = begin();
  assert.deepEqual(await count.count(), { data: 0, zero: 0, missing: LENGTH });
  await image.clock.advance(3_600_000);
  await Promise.all([count.count(), count.count()]);
  assert.equal(image.walks, 1);
  image.data = 4096;
  assert.deepEqual(await count.count(), { data: 4096, zero: 0, missing: LENGTH - 4096 });
});

test("where it takes long it is counted for a twentieth of the time", async () => {
  const { image, count } = begin();
  image.takes = 1000;
  await count.count();
  image.data = 4096;
  await image.clock.advance(19_999);
  assert.equal((await count.count()).data, 0);
  await image.clock.advance(1);
  assert.equal((await count.count()).data, 4096);
});

test("an image that has another length is counted at once, however long it takes", async () => {
  const { image, count } = begin();
  image.takes = 1000;
  await count.count();
  await image.resize(2 * LENGTH);
  assert.equal((await count.count()).missing, 2 * LENGTH);
  await image.resize(LENGTH / 2);
  assert.equal((await count.count()).missing, LENGTH / 2);
});

test("what failed is tried again", async () => {
  const { image, count } = begin();
  image.failing = true;
  await assert.rejects(count.count(), { message: "no" });
  image.failing = false;
  assert.equal((await count.count()).missing, LENGTH);
});
