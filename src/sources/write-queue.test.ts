import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { WriteQueue } from "./write-queue.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-write-queue-"));
after(() => rmSync(directory, { recursive: true }));

const KIB = 1024;
/** Beyond what ext4 and xfs let a file be. */
const FARTHEST = Number.MAX_SAFE_INTEGER - 2 ** 20;

interface Outcome {
  readonly error: NodeJS.ErrnoException | null;
  readonly done: number;
}

/** Writes all at once, and tells how each ended, and in which order. */
async function write(
  queue: WriteQueue,
  writes: readonly { readonly offset: number; readonly data: Uint8Array }[],
): Promise<{ outcomes: Outcome[]; order: number[] }> {
  const order: number[] = [];
  const outcomes = await Promise.all(
    writes.map(
      ({ offset, data }, index) =>
        new Promise<Outcome>((resolve) => {
          queue.add(offset, data, (error, done) => {
            order.push(index);
            resolve({ error, done });
          });
        }),
    ),
  );
  return { outcomes, order };
}

test("all that is written is there, whatever goes together", async () => {
  const path = join(directory, "all");
  const file = openSync(path, "w+");
  const queue = new WriteQueue(file);
  const sizes = [100_000, 1, 64 * KIB, 300 * KIB, 0, 4096, 2048 * KIB, 700 * KIB, 5, 4096];
  const gaps = [0, 0, 0, 10, 0, 0, 0, 0, 4091, 0];
  let offset = 0;
  const writes = sizes.map((size, index) => {
    offset += gaps[index] as number;
    const write = { offset, data: Buffer.alloc(size, index + 1) };
    offset += size;
    return write;
  });
  const expected = Buffer.alloc(offset);
  for (const write of writes) write.data.copy(expected, write.offset);
  for (const round of [writes, writes.toReversed()]) {
    const { outcomes } = await write(queue, round);
    assert.deepEqual(
      outcomes,
      round.map(({ data }) => ({ error: null, done: data.length })),
    );
    assert.ok(readFileSync(path).equals(expected));
  }
  closeSync(file);
});

test("writes to one place take effect in their order", async () => {
  const path = join(directory, "order");
  const file = openSync(path, "w+");
  const queue = new WriteQueue(file);
  const writes = [1, 2, 3, 4].map((value) => ({ offset: 0, data: Buffer.alloc(128 * KIB, value) }));
  const { order } = await write(queue, writes);
  assert.deepEqual(order, [0, 1, 2, 3]);
  assert.equal(readFileSync(path)[0], 4);
  closeSync(file);
});

test("one that fails takes none with it that was written, or comes later", async () => {
  const path = join(directory, "failure");
  const file = openSync(path, "w+");
  const queue = new WriteQueue(file);
  const large = Buffer.alloc(128 * KIB, 1);
  const { outcomes } = await write(queue, [
    { offset: 0, data: large },
    { offset: FARTHEST, data: large },
    { offset: large.length, data: large },
  ]);
  assert.deepEqual(
    outcomes.map(({ error, done }) => [error?.code !== undefined, done]),
    [
      [false, large.length],
      [true, 0],
      [false, large.length],
    ],
  );
  assert.equal(readFileSync(path).length, 2 * large.length);
  closeSync(file);
});
