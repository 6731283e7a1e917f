/** A served disk over a source of others (nbdkit): what it asks of the source, and what becomes of the source in the end. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { serveDisk } from "../../src/engine/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { makeOverlay, noise, peer, temporaryDirectory } from "../support/cli.ts";
import { startNbdkit } from "../support/nbd-servers.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;

/** nbdkit with a base that is data throughout, and the reads that it has answered since it was started. */
async function loggedSource(t: TestContext) {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const content = noise(SIZE, 7);
  writeFileSync(base, content);
  const log = join(directory, "log");
  const server = await startNbdkit(["-r", "--filter=log", "file", base, `logfile=${log}`, "logappend=true"]);
  t.after(() => server[Symbol.asyncDispose]());
  const reads = () =>
    Array.from(
      readFileSync(log, "utf8").matchAll(/ Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+) /g),
      (line) => ({
        offset: Number(line[1]),
        length: Number(line[2]),
      }),
    );
  const options = {
    image: join(directory, "vm.qcow2"),
    create: true,
    backing: server.uri,
    backingFormat: "raw",
  } as const;
  return { content, server, reads, options };
}

const bytesOf = (reads: readonly { length: number }[]) => reads.reduce((sum, { length }) => sum + length, 0);

test("a stream asks for every byte once", async (t) => {
  const { reads, options } = await loggedSource(t);
  await using disk = await serveDisk({ ...options, stream: true });
  await disk.hydrated();
  const asked = reads().sort((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, length } of asked) {
    assert.equal(offset, end);
    end += length;
  }
  assert.equal(end, SIZE);
});

for (const copyOnRead of [true, false]) {
  test(`a guest that walks with small reads costs few requests, ${copyOnRead ? "and keeps" : "without"} copies`, async (t) => {
    const { content, reads, options } = await loggedSource(t);
    await using disk = await serveDisk({ ...options, copyOnRead });
    await using guest = await connectNbd(disk.uri);
    const block = Buffer.alloc(16384);
    for (let at = 0; at < 8 * MIB; at += block.length) {
      await guest.read(at, block);
      assert(block.equals(content.subarray(at, at + block.length)), `at ${at}`);
    }
    const asked = reads();
    assert(asked.length < 45, `${asked.length} requests`);
    // No more than it was ahead at the end.
    assert(bytesOf(asked) <= 9.25 * MIB, `${bytesOf(asked)} bytes`);
  });
}

test("a served disk is mapped and made larger, and does not show its base there", async (t) => {
  const { base, image } = makeOverlay(temporaryDirectory(t));
  const expected = JSON.parse(peer("qemu-img", "map", "--output=json", image)) as { start: number; length: number }[];
  await using disk = await serveDisk({ image, readOnly: false });
  assert.deepEqual((await disk.info()).below, [base]);
  const { entries } = await disk.map({ limit: 1000 });
  assert.deepEqual(
    entries.map(({ start, length }) => ({ start, length })),
    expected.map(({ start, length }) => ({ start, length })),
  );
  const first = await disk.map({ limit: 2 });
  assert.deepEqual([first.entries, first.next], [entries.slice(0, 2), entries[2]?.start]);
  assert.deepEqual((await disk.map({ offset: first.next ?? 0, limit: 1000 })).entries, entries.slice(2));

  await assert.rejects(disk.resize(16 * MIB), { code: "refused" });
  await disk.resize(16 * MIB, { shrink: true });
  await disk.resize(32 * MIB);
  await using guest = await connectNbd(disk.uri);
  const beyond = Buffer.alloc(16 * MIB, 1);
  await guest.read(16 * MIB, beyond);
  assert(beyond.equals(Buffer.alloc(16 * MIB)));
  const { length, missingBytes } = await disk.info();
  assert.equal(length, 32 * MIB);
  assert(missingBytes < 16 * MIB);
});
