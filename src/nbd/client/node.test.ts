import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeNbdServer, type FakeRequest } from "../../../test/support/fake-nbd-server.ts";
import { errorChunk, simpleReply } from "../../../test/support/nbd-replies.ts";
import { COMMAND, COMMAND_NAMES, FLAG } from "../protocol.ts";
import { connectNbd } from "./connect.ts";

const KiB = 1024;
const GiB = 1024 ** 3;

/** What was asked for, in short: ["READ 0+4096"]. */
function asked({ requests }: FakeNbdServer): string[] {
  const short = ({ command, offset, length }: FakeRequest) => `${COMMAND_NAMES[command]} ${offset}+${length}`;
  return requests.splice(0).map(short);
}

function filled(length: number, byte: number): Buffer {
  return Buffer.alloc(length, byte);
}

test("reads go to the wire as they are, and large ones in parts", async () => {
  await using server = await FakeNbdServer.start({ size: 300 * KiB, blockSizes: [1, 4096, 100_000] });
  await using disk = await connectNbd(server.uri);
  const odd = Buffer.alloc(13);
  await disk.read(77, odd);
  assert.deepEqual(odd, server.content.subarray(77, 90));
  const all = Buffer.alloc(disk.length);
  await disk.read(0, all);
  assert.deepEqual(all, server.content);
  await disk.read(5, Buffer.alloc(0));
  assert.deepEqual(asked(server), [
    "READ 77+13",
    "READ 0+100000",
    "READ 100000+100000",
    "READ 200000+100000",
    "READ 300000+7200",
  ]);
});

test("what the server's blocks ask for is obeyed", async () => {
  await using server = await FakeNbdServer.start({ size: 64 * KiB, blockSizes: [4096, 4096, 10_000] });
  await using disk = await connectNbd(server.uri);
  const expected = Buffer.from(server.content);

  const bytes = Buffer.alloc(6000);
  await disk.read(4000, bytes);
  assert.deepEqual(bytes, expected.subarray(4000, 10_000));
  // The maximum is rounded down to whole blocks.
  assert.deepEqual(asked(server), ["READ 0+8192", "READ 8192+4096"]);

  await disk.write(5000, filled(100, 0xaa));
  expected.fill(0xaa, 5000, 5100);
  assert.deepEqual(asked(server), ["READ 4096+4096", "WRITE 4096+4096"]);

  await disk.writeZeroes(4000, 10_000);
  expected.fill(0, 4000, 14_000);
  assert.deepEqual(asked(server), [
    "WRITE_ZEROES 4096+8192",
    "READ 0+4096",
    "WRITE 0+4096",
    "READ 12288+4096",
    "WRITE 12288+4096",
  ]);
  await disk.writeZeroes(20_000, 10);
  expected.fill(0, 20_000, 20_010);
  await disk.discard(30_000, 20_000);
  expected.fill(0, 32768, 49152);
  await disk.discard(60_000, 100);
  await disk.cache(50, 100);
  assert.deepEqual(asked(server), ["READ 16384+4096", "WRITE 16384+4096", "TRIM 32768+16384", "CACHE 0+4096"]);
  assert.deepEqual(server.content, expected);

  // Parts of one block that are written at the same time all arrive.
  await Promise.all(Array.from({ length: 8 }, (_, sector) => disk.write(512 * sector, filled(512, sector + 1))));
  for (let sector = 0; sector < 8; sector++) expected.fill(sector + 1, 512 * sector, 512 * (sector + 1));
  assert.deepEqual(server.content, expected);
});

test("the tail of an export that is no multiple of its blocks is read and written", async () => {
  await using server = await FakeNbdServer.start({ size: 10_000, blockSizes: [4096, 4096, 1 << 20] });
  await using disk = await connectNbd(server.uri);
  const bytes = Buffer.alloc(500);
  await disk.read(9500, bytes);
  assert.deepEqual(bytes, server.content.subarray(9500));
  await disk.write(9999, filled(1, 0xbb));
  await disk.discard(8192, 1808);
  assert.deepEqual(asked(server), ["READ 8192+1808", "READ 8192+1808", "WRITE 8192+1808", "TRIM 8192+1808"]);
});

test("a server that can't zero gets zeroes, one that can't discard is left alone", async () => {
  await using server = await FakeNbdServer.start({ size: 3 * 1024 * KiB, flags: FLAG.HAS_FLAGS });
  await using disk = await connectNbd(server.uri);
  await disk.writeZeroes(100, 2048 * KiB);
  await disk.discard(0, 4096);
  await disk.flush();
  assert.deepEqual(asked(server), ["WRITE 100+1048576", "WRITE 1048676+1048576"]);
  await assert.rejects(disk.cache(0, 1), { code: "unsupported", message: /does not offer it/ });
  await assert.rejects(disk.resize(), { code: "unsupported" });
});

test("long ranges without payload go in parts", async () => {
  await using server = await FakeNbdServer.start({
    claimedSize: 4096 * GiB,
    contexts: new Map([[1, "base:allocation"]]),
    extents: [[4096 * GiB, 3]],
  });
  await using disk = await connectNbd(server.uri);
  await disk.writeZeroes(GiB, GiB / 2);
  await disk.discard(1024 * GiB, GiB / 2);
  await disk.cache(4096 * GiB - 40 * 1024 * KiB, 40 * 1024 * KiB);
  assert.deepEqual(await disk.extents(GiB, 4000 * GiB), [{ offset: GiB, length: GiB, kind: "zero", depth: 0 }]);
  assert.deepEqual(asked(server), [
    "WRITE_ZEROES 1073741824+268435456",
    "WRITE_ZEROES 1342177280+268435456",
    "TRIM 1099511627776+268435456",
    "TRIM 1099780063232+268435456",
    "CACHE 4398004568064+33554432",
    "CACHE 4398038122496+8388608",
    "BLOCK_STATUS 1073741824+1073741824",
  ]);
});

test("extents say what reads as zeroes, within the range that was asked for", async () => {
  const extents = [
    [8192, 0],
    [4096, 3],
    [4096, 2],
    [4096, 1],
    [12288, 0],
  ] as const;
  const contexts = new Map([
    [3, "base:allocation"],
    [4, "qemu:allocation-depth"],
  ]);
  await using server = await FakeNbdServer.start({ size: 32768, extents, contexts, blockSizes: [4096, 4096, 65536] });
  await using disk = await connectNbd(server.uri);
  assert.deepEqual(await disk.extents(100, 30_000), [
    { offset: 100, length: 8092, kind: "data", depth: 0 },
    { offset: 8192, length: 4096, kind: "zero", depth: 0 },
    { offset: 12288, length: 4096, kind: "zero", depth: 0 },
    // A hole that is not said to be zero is not.
    { offset: 16384, length: 4096, kind: "data", depth: 0 },
    { offset: 20480, length: 9620, kind: "data", depth: 0 },
  ]);
  assert.deepEqual(await disk.extents(32768, 0), []);
  assert.deepEqual(await disk.allocationDepths(5000, 2000), [{ offset: 5000, length: 2000, depth: 1 }]);

  server.script.extents = [[512, 0]];
  await assert.rejects(disk.extents(600, 600), { code: "protocol", message: /ends within a block of 4096/ });
});

test("errors of the server say what failed and why", async () => {
  const answers: Record<number, Buffer> = {};
  await using server = await FakeNbdServer.start({
    request: ({ command }, peer) => {
      const answer = answers[command];
      if (answer !== undefined) peer.send(answer);
      return answer !== undefined;
    },
  });
  await using disk = await connectNbd(server.uri);
  answers[COMMAND.READ] = errorChunk(1, 5, "bad sector", { offset: 20, done: true });
  await assert.rejects(disk.read(0, Buffer.alloc(512)), {
    code: "io",
    message: `'${server.uri}' answers READ of 512 bytes at 0 with an error at 20: input/output error (EIO): bad sector`,
    context: { node: server.uri, operation: "READ", offset: 0, length: 512 },
  });
  for (const [cookie, [error, code]] of (
    [
      [1, "permission"],
      [28, "no-space"],
      [22, "invalid-argument"],
      [95, "unsupported"],
      [12, "io"],
      [4711, "invalid-argument"],
    ] as const
  ).entries()) {
    answers[COMMAND.WRITE] = simpleReply(cookie + 2, error);
    await assert.rejects(disk.write(0, Buffer.alloc(1)), { code });
  }
});

test("a read that is given up leaves its memory alone", async () => {
  let answer: (() => void) | undefined;
  await using server = await FakeNbdServer.start({
    request: (request, peer) => {
      if (request.command !== COMMAND.READ || answer !== undefined) return false;
      answer = () => peer.answer(request);
      return true;
    },
  });
  await using disk = await connectNbd(server.uri);
  const stop = new AbortController();
  const bytes = Buffer.alloc(100);
  const reading = disk.read(0, bytes, stop.signal);
  setTimeout(() => stop.abort(new Error("enough")), 20);
  await assert.rejects(reading, /enough/);
  answer?.();
  // The connection goes on.
  await disk.read(0, Buffer.alloc(100));
  assert.deepEqual(bytes, Buffer.alloc(100));
  await assert.rejects(disk.read(0, bytes, stop.signal), /enough/);
});

test("refuses what makes no sense", async () => {
  await using server = await FakeNbdServer.start({ size: 4096, flags: FLAG.HAS_FLAGS | FLAG.READ_ONLY });
  const disk = await connectNbd(server.uri);
  assert.equal(disk.readOnly, true);
  await assert.rejects(disk.read(4000, Buffer.alloc(100)), { code: "invalid-argument" });
  await assert.rejects(disk.write(0, Buffer.alloc(1)), { code: "permission" });
  await disk.close();
  await disk.close();
  assert.deepEqual(asked(server), ["DISC 0+0"]);
  await assert.rejects(disk.read(0, Buffer.alloc(1)), { code: "shutdown" });
  await assert.rejects(disk.flush(), { code: "shutdown" });

  server.script.flags = FLAG.HAS_FLAGS;
  await using looked = await connectNbd(server.uri, { readOnly: true });
  await assert.rejects(looked.write(0, Buffer.alloc(1)), { code: "permission" });
});
