/** What a served disk tells of what goes on in it, over a source of nbdkit that is slow and dies. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type DiskLive, type ServedDisk, serveDisk } from "../../src/engine/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { startNbdkit } from "../support/nbd-servers.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;

type Watch = AsyncGenerator<DiskLive, void, undefined>;

/** Reads on until something is so. */
async function until(watch: Watch, what: (live: DiskLive) => boolean): Promise<DiskLive> {
  for (;;) {
    const { done, value } = await watch.next();
    assert.ok(!done, "it has ended");
    if (what(value)) return value;
  }
}

/** How many bytes ranges have. */
function bytesIn(ranges: readonly number[]): number {
  return ranges.reduce((sum, number, index) => (index % 2 === 1 ? sum + number : sum), 0);
}

async function bench(t: TestContext, delayMs: number) {
  const source = await startNbdkit(["--filter=delay", "pattern", String(SIZE), `rdelay=${delayMs}ms`]);
  t.after(() => source[Symbol.asyncDispose]());
  const image = join(temporaryDirectory(t), "vm.qcow2");
  const disk: ServedDisk = await serveDisk({
    image,
    backing: source.uri,
    backingFormat: "raw",
    create: true,
    onSourceError: { holdMs: Number.POSITIVE_INFINITY, afterwards: "error" },
  });
  t.after(() => disk.close());
  const guest = await connectNbd(disk.uri);
  t.after(() => guest.close());
  const leaving = new AbortController();
  return { source, disk, guest, leaving, watch: disk.watch(leaving.signal) };
}

test("what guests read and write, and what the stream fetches, is told as it happens", async (t) => {
  const { disk, guest, watch, leaving } = await bench(t, 20);
  const first = (await watch.next()).value as DiskLive;
  assert.deepEqual([first.fetched, first.inFlight, first.source.state, first.clients], [[], [], "ok", 1]);

  const read = guest.read(3 * MIB, new Uint8Array(4096));
  assert.deepEqual((await until(watch, (live) => live.read.length > 0)).read, [3 * MIB, 64 * 1024]);
  await read;
  await guest.write(5 * MIB, new Uint8Array(512).fill(1));
  assert.deepEqual((await until(watch, (live) => live.written.length > 0)).written, [5 * MIB, 512]);
  await guest.writeZeroes(6 * MIB, MIB);
  assert.deepEqual((await until(watch, (live) => live.zeroed.length > 0)).zeroed, [6 * MIB, MIB]);

  await disk.stream({ speed: 4 * MIB });
  let fetched = 0;
  let flown = 0;
  await until(watch, (live) => {
    fetched += bytesIn(live.fetched);
    flown = Math.max(flown, bytesIn(live.inFlight));
    return live.source.state === "none";
  });
  assert.ok(flown > 0, "something was in flight");
  assert.ok(fetched > SIZE / 2 && fetched <= SIZE, `${fetched} bytes were told to be fetched`);
  const { local, missing } = await disk.cells({ offset: 0, count: 16 });
  assert.deepEqual([...missing], Array(16).fill(0));
  assert.deepEqual(
    [...local],
    Array.from({ length: 16 }, (_, index) => (index === 6 ? 0 : 255)),
  );

  await guest.flush();
  leaving.abort();
  assert.equal((await watch.next()).done, true);
});

test("what guests wait for while the source is dead is told, also to one who comes later", async (t) => {
  const { source, disk, guest, watch } = await bench(t, 1);
  await watch.next();
  await source.stop();
  const read = guest.read(8 * MIB, new Uint8Array(4096));
  const lost = await until(watch, ({ waiting }) => waiting.length > 0);
  assert.deepEqual([lost.waiting, lost.source.state, lost.source.held], [[8 * MIB, 4096], "lost", 1]);
  await watch.return();
  const later = disk.watch(AbortSignal.timeout(60_000));
  assert.deepEqual((await until(later, () => true)).waiting, [8 * MIB, 4096]);
  await source.start();
  await until(later, ({ waiting }) => waiting.length === 0);
  await read;
  await disk.close();
  await assert.rejects(
    until(later, () => false),
    /it has ended/,
  );
});
