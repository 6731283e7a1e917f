import assert from "node:assert/strict";
import { test } from "node:test";
import { CLUSTER, type Poke, smallQcow2 } from "../../../test/support/qcow2-fixture.ts";
import { viewOf } from "./big-endian.ts";
import { bitmapClusters, bitmapWarning, readBitmaps } from "./bitmaps.ts";
import { readHeader } from "./header-file.ts";

/** Directory at cluster 4 (two entries of 32 bytes), tables at clusters 5 and 6, one cluster of bits at 7. */
const DIRECTORY = 4 * CLUSTER;
const SECOND = DIRECTORY + 32;
const TWO: readonly Poke[] = [
  [DIRECTORY + 4, 5 * CLUSTER],
  [DIRECTORY + 8, 2],
  [DIRECTORY + 12, 2],
  [DIRECTORY + 16, 0x01100001],
  [DIRECTORY + 24, 0x61000000],
  [SECOND + 4, 6 * CLUSTER],
  [SECOND + 8, 1],
  [SECOND + 12, 3],
  [SECOND + 16, 0x01090002],
  [SECOND + 24, 0x62620000],
  [5 * CLUSTER + 4, 1],
  [5 * CLUSTER + 12, 7 * CLUSTER],
];

function extension(count = 2, size = 64, offset = DIRECTORY): Uint8Array {
  const data = new Uint8Array(24);
  for (const [at, word] of [
    [0, count],
    [12, size],
    [20, offset],
  ] as const)
    viewOf(data).setUint32(at, word);
  return data;
}

async function read(pokes: readonly Poke[] = [], data = extension()) {
  const file = smallQcow2([...TWO, ...pokes], data);
  const header = await readHeader(file);
  const places = [];
  for await (const { host, length } of bitmapClusters(file, header)) places.push([host / CLUSTER, length]);
  return { bitmaps: await readBitmaps(file, header), places };
}

test("names, flags and the clusters in use", async () => {
  const { bitmaps, places } = await read();
  assert.deepEqual(
    bitmaps.map(({ name, granularity, flags }) => [name, granularity, ...flags]),
    [
      ["a", 65536, "auto"],
      ["bb", 512, "in-use", "auto"],
    ],
  );
  assert.deepEqual(places, [
    [4, 64],
    [5, 16],
    [7, CLUSTER],
    [6, 8],
  ]);
  assert.match(bitmapWarning(bitmaps, "disk") ?? "", /'disk' .*\('a', 'bb'\)/);
  assert.equal(bitmapWarning([], "disk"), undefined);
});

test("bitmaps that are not marked consistent are not looked at", async () => {
  const { bitmaps, places } = await read(
    [
      [92, 0],
      [20, 12],
    ],
    extension(0),
  );
  assert.deepEqual([bitmaps, places], [[], []]);
});

const SPOILT: readonly [what: string, message: RegExp, pokes: Poke[], data?: Uint8Array][] = [
  ["extension cut off", /extension has 20 bytes/, [], extension().subarray(4)],
  ["no bitmaps", /has 0 bitmaps/, [], extension(0)],
  ["too many", /has 65536 bitmaps/, [], extension(65536)],
  ["directory bomb", /directory has 4294967295 bytes/, [], extension(2, 0xffffffff)],
  ["directory outside", /directory \(64 bytes at 65536\)/, [], extension(2, 64, 16 * CLUSTER)],
  ["more than said", /does not hold 1 bitmaps/, [], extension(1)],
  ["fewer than said", /does not hold 3 bitmaps/, [], extension(3)],
  ["extra data without end", /does not hold/, [[SECOND + 20, 0xffffffff]]],
  ["kind", /no known kind/, [[SECOND + 16, 0x02100002]]],
  ["table bomb", /bitmap 'bb' has more than/, [[SECOND + 8, 0xffffffff]]],
  ["table outside", /table of its bitmap 'bb' \(8 bytes at 4294991872\)/, [[SECOND, 1]]],
  ["table shared", /table of bitmap 'bb' .* overlaps/, [[SECOND + 4, 5 * CLUSTER]]],
  ["table over the L1 table", /overlaps its/, [[SECOND + 4, 3 * CLUSTER]]],
  ["bits unaligned", /table of bitmap 'bb' has an entry 0x7001/, [[6 * CLUSTER + 4, 7 * CLUSTER + 1]]],
  ["reserved bits", /has an entry 0x100000000000000/, [[6 * CLUSTER, 0x01000000]]],
];

for (const [what, message, pokes, data] of SPOILT) {
  test(`refused: ${what}`, async () => {
    await assert.rejects(read(pokes, data), { code: "invalid-image", message });
  });
}

test("marked to have bitmaps and without the extension", async () => {
  const file = smallQcow2([[92, 1]]);
  const header = await readHeader(file);
  await assert.rejects(readBitmaps(file, header), { code: "invalid-image", message: /lacks the extension/ });
});
