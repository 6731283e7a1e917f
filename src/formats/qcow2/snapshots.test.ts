import assert from "node:assert/strict";
import { test } from "node:test";
import { CLUSTER, type Poke, smallQcow2 } from "../../../test/support/qcow2-fixture.ts";
import { readHeader } from "./header-file.ts";
import { readSnapshotL1, readSnapshots } from "./snapshots.ts";

/** Two snapshots in the table at cluster 4, with L1 tables at clusters 5 and 6: "1" named "a", "2" named "b" with extra data. */
const TABLE = 4 * CLUSTER;
const SECOND = TABLE + 48;
const TWO: readonly Poke[] = [
  [60, 2],
  [68, TABLE],
  [TABLE + 4, 5 * CLUSTER],
  [TABLE + 8, 1],
  [TABLE + 12, 0x00010001],
  [TABLE + 16, 1_700_000_000],
  [TABLE + 28, 1_500_000_000],
  [TABLE + 32, 77],
  [TABLE + 40, 0x31610000],
  [SECOND + 4, 6 * CLUSTER],
  [SECOND + 8, 1],
  [SECOND + 12, 0x00010001],
  [SECOND + 36, 24],
  [SECOND + 44, 99],
  [SECOND + 52, 2 * 2 ** 20],
  [SECOND + 60, 7],
  [SECOND + 64, 0x32620000],
];

async function read(...pokes: Poke[]) {
  const file = smallQcow2([...TWO, ...pokes]);
  return { file, ...(await readSnapshots(file, await readHeader(file))) };
}

test("entries with and without extra data", async () => {
  const { file, list, length } = await read();
  assert.equal(length, 48 + 72);
  assert.deepEqual(list, [
    {
      name: "a",
      details: {
        id: "1",
        name: "a",
        "vm-state-size": 77,
        "date-sec": 1_700_000_000,
        "date-nsec": 0,
        "vm-clock-sec": 1,
        "vm-clock-nsec": 500_000_000,
      },
      l1Offset: 5 * CLUSTER,
      l1Entries: 1,
      diskSize: 2 ** 20,
    },
    {
      name: "b",
      details: {
        id: "2",
        name: "b",
        "vm-state-size": 99,
        "date-sec": 0,
        "date-nsec": 0,
        "vm-clock-sec": 0,
        "vm-clock-nsec": 0,
        icount: 7,
      },
      l1Offset: 6 * CLUSTER,
      l1Entries: 1,
      diskSize: 2 * 2 ** 20,
    },
  ]);
  const [first] = list;
  assert.ok(first !== undefined);
  assert.deepEqual(await readSnapshotL1(file, first), new Uint8Array(8));
});

const SPOILT: readonly [what: string, pokes: Poke[], message: RegExp][] = [
  ["extra data without end", [[SECOND + 36, 0xffffffff]], /snapshot 1 has 4294967295 bytes of extra data/],
  ["table cut off", [[60, 1228]], /snapshot table at 16384 reaches past the end/],
  ["L1 bomb", [[SECOND + 8, 0xffffffff]], /snapshot 'b' has more than 33554432 bytes/],
  ["L1 unaligned", [[SECOND + 4, 6 * CLUSTER + 8]], /snapshot 'b' is not aligned/],
  ["L1 past the end", [[SECOND, 1]], /snapshot 'b' reaches past the end/],
  ["L1 shared", [[SECOND + 4, 5 * CLUSTER]], /L1 table of snapshot 'b' .* overlaps its L1 table of snapshot 'a'/],
  ["L1 over the active one", [[SECOND + 4, 3 * CLUSTER]], /snapshot 'b' .* overlaps its L1 table/],
  ["L1 over the header", [[SECOND + 4, 0]], /snapshot 'b' .* overlaps its header/],
];

for (const [what, pokes, message] of SPOILT) {
  test(`refused: ${what}`, async () => {
    await assert.rejects(read(...pokes), { code: "invalid-image", message });
  });
}
