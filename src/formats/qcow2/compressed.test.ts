import assert from "node:assert/strict";
import { test } from "node:test";
import { constants, deflateRawSync, zstdCompressSync } from "node:zlib";
import { decompressor } from "./compressed.ts";
import { zstdFrameLength } from "./zstd-frame.ts";

const SIZE = 64 * 1024;
const zlib = decompressor({ type: "zlib", clusterSize: SIZE, node: "disk" });
const zstd = decompressor({ type: "zstd", clusterSize: SIZE, node: "disk" });

/** A cluster that compresses, but not to nothing. */
const cluster = new Uint8Array(SIZE).map((_, index) => (index * index) >> 7);
const tail = Buffer.from("the next cluster begins in this sector");
const deflate = (bytes: Uint8Array) => deflateRawSync(bytes, { windowBits: 12 });

const refused = (promise: Promise<Uint8Array>, message: RegExp) =>
  assert.rejects(promise, {
    code: "invalid-image",
    message,
    context: { node: "disk", operation: "read", offset: 131072, length: SIZE },
  });

test("what follows the compressed bytes does not matter", async () => {
  for (const after of [Buffer.alloc(0), Buffer.alloc(300), tail]) {
    assert.deepEqual(new Uint8Array(await zlib(Buffer.concat([deflate(cluster), after]), 0)), cluster);
    assert.deepEqual(new Uint8Array(await zstd(Buffer.concat([zstdCompressSync(cluster), after]), 0)), cluster);
  }
});

test("a stream without its end mark counts when it holds a cluster", async () => {
  const open = deflateRawSync(cluster, { windowBits: 12, finishFlush: constants.Z_SYNC_FLUSH });
  assert.deepEqual(new Uint8Array(await zlib(open, 0)), cluster);
});

test("several frames make one cluster", async () => {
  const frames = [cluster.subarray(0, 10_000), cluster.subarray(10_000)].map((part) => zstdCompressSync(part));
  assert.deepEqual(new Uint8Array(await zstd(Buffer.concat([...frames, tail]), 0)), cluster);
});

test("every kind of frame is measured", () => {
  for (const bytes of [new Uint8Array(0), new Uint8Array(200), new Uint8Array(70_000), cluster, Buffer.from("abc")]) {
    for (const checksum of [0, 1]) {
      for (const size of [0, 1]) {
        const params = { [constants.ZSTD_c_checksumFlag]: checksum, [constants.ZSTD_c_contentSizeFlag]: size };
        const frame = zstdCompressSync(bytes, { params });
        assert.equal(zstdFrameLength(Buffer.concat([frame, tail])), frame.length);
        assert.equal(zstdFrameLength(frame.subarray(0, -1)), undefined);
      }
    }
  }
  assert.equal(zstdFrameLength(tail), undefined);
});

test("data of another length than a cluster is refused, and a bomb costs no memory", async () => {
  const bomb = new Uint8Array(32 * 2 ** 20);
  await refused(zlib(deflate(bomb), 131072), /guest offset 131072 .*larger than 65536 bytes/);
  await refused(zstd(zstdCompressSync(bomb), 131072), /guest offset 131072 .*larger than 65536 bytes/);
  await refused(zlib(deflate(cluster.subarray(1)), 131072), /they hold 65535 bytes, and a cluster has 65536/);
  await refused(zstd(zstdCompressSync(cluster.subarray(1)), 131072), /they hold 65535 bytes/);
  await refused(zlib(new Uint8Array(0), 131072), /they hold 0 bytes/);
  await refused(zstd(new Uint8Array(512), 131072), /they hold 0 bytes/);
});

test("damaged data is refused", async () => {
  const frame = zstdCompressSync(cluster, { params: { [constants.ZSTD_c_checksumFlag]: 1 } });
  await refused(zlib(Uint8Array.of(0xff, 0xff, 0xff), 131072), /invalid block type/);
  await refused(zlib(deflate(cluster).subarray(0, 100), 131072), /they hold/);
  await refused(zstd(frame.subarray(0, 100), 131072), /they hold 0 bytes/);
  frame.fill(0x55, 20, 200);
  await refused(zstd(frame, 131072), /cannot be expanded/);
});

test("a window of 1 GiB is refused", async () => {
  // Window descriptor: exponent 20, 2^(10 + 20) bytes. One raw block of nothing, the last.
  await refused(
    zstd(Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 1, 0, 0), 131072),
    /cannot be expanded: .*(memory|window)/i,
  );
});
