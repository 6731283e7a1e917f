import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seed } from "../../../test/support/seed.ts";
import type { ClusterEntry, MappingCodec, TableEntry } from "../mapped/codec.ts";
import { qcow2Codec } from "./entries.ts";

const standard = (version: 2 | 3, clusterBits: number) =>
  qcow2Codec({ version, clusterBits, extendedL2: false, name: "disk" });
const extended = (clusterBits: number) => qcow2Codec({ version: 3, clusterBits, extendedL2: true, name: "disk" });

const newEntry = (): ClusterEntry => ({ host: -1, compressedLength: -1, owned: false, data: -1, zero: -1 });

/** Decodes entry 1 of a table that holds these words there. */
function decode(codec: MappingCodec, ...words: bigint[]): ClusterEntry {
  const table = new DataView(new ArrayBuffer(32));
  for (const [index, word] of words.entries()) table.setBigUint64(codec.entryBytes + index * 8, word);
  const entry = newEntry();
  codec.decode(table, 1, entry);
  return entry;
}

test("entries of 64 KiB clusters, as QEMU writes them", () => {
  const v3 = standard(3, 16);
  const none = { host: 0, compressedLength: 0, owned: false, data: 0, zero: 0 };
  assert.deepEqual(decode(v3, 0n), none);
  assert.deepEqual(decode(v3, 0x8000000000050000n), { ...none, host: 0x50000, owned: true, data: 1 });
  assert.deepEqual(decode(v3, 0x0000000000050000n), { ...none, host: 0x50000, data: 1 });
  assert.deepEqual(decode(v3, 1n), { ...none, zero: 1 });
  assert.deepEqual(decode(v3, 0x8000000000050001n), { ...none, host: 0x50000, owned: true, zero: 1 });
  // x = 54: two more sectors, from an offset 0x123 into its first one.
  assert.deepEqual(decode(v3, 0x4080000000050123n), {
    ...none,
    host: 0x50123,
    compressedLength: 2 * 512 + 512 - 0x123,
    data: 1,
  });
  assert.deepEqual(decode(v3, 0x801fffffffff0000n).host, 2 ** 53 - 65536);
});

test("compressed entries at the smallest and the largest cluster size", () => {
  // 512 bytes: x = 61, so one bit of sectors. 2 MiB: x = 49, so thirteen.
  assert.equal(decode(standard(2, 9), 0x6000000000000201n).compressedLength, 1023);
  assert.equal(decode(standard(2, 9), 0x6000000000000201n).host, 0x201);
  const largest = decode(standard(3, 21), 0x7ffe000000200000n);
  assert.deepEqual([largest.host, largest.compressedLength], [0x200000, 8192 * 512]);
  assert.equal(decode(extended(16), 0x4000000000050000n, 0n).data, 0xffffffff);
});

test("extended entries", () => {
  const codec = extended(16);
  const entry = decode(codec, 0x8000000000050000n, 0xf00000000000000fn);
  assert.deepEqual(entry, { host: 0x50000, compressedLength: 0, owned: true, data: 0xf, zero: 0xf0000000 });
  assert.equal(decode(codec, 0n, 0xffffffff00000000n).zero, 0xffffffff);
});

test("what the specification rules out is refused", () => {
  const refused = (codec: MappingCodec, ...words: bigint[]) =>
    assert.throws(() => decode(codec, ...words), { code: "invalid-image", message: /L2 entry 1 is 0x.*run check/ });
  refused(standard(3, 16), 0x8000000000050200n); // not aligned
  refused(standard(3, 16), 0x0000000000000002n); // reserved
  refused(standard(3, 16), 0x8100000000050000n); // reserved
  refused(standard(3, 16), 0x8020000000050000n); // 2^53
  refused(standard(3, 16), 0x8000000000000000n); // refcount of nothing
  refused(standard(2, 16), 0x0000000000000001n); // no zero clusters in version 2
  refused(standard(3, 16), 0x4000000000000123n); // compressed data inside the header
  refused(standard(3, 9), 0x4100000000000223n); // compressed data past 2^56
  refused(extended(16), 0x8000000000050001n, 0n); // zero flag with extended L2
  refused(extended(16), 0x8000000000050000n, 0x0000000100000001n); // both data and zero
  refused(extended(16), 0n, 1n); // data nowhere
  refused(extended(16), 0x4000000000050123n, 1n); // compressed clusters have no parts
});

test("L1 entries", () => {
  const codec = standard(3, 16);
  const table = new DataView(new ArrayBuffer(16));
  const entry: TableEntry = { host: -1, owned: false };
  for (const [word, host, owned] of [
    [0n, 0, false],
    [0x8000000000030000n, 0x30000, true],
    [0x0000000000030000n, 0x30000, false],
  ] as const) {
    table.setBigUint64(8, word);
    codec.decodeL1(table, 1, entry);
    assert.deepEqual(entry, { host, owned });
    table.setBigUint64(8, 0xffn);
    codec.encodeL1(table, 1, entry);
    assert.equal(table.getBigUint64(8), word);
  }
  for (const word of [0x8000000000000000n, 0x4000000000030000n, 0x8000000000030001n, 0x80e0000000030000n]) {
    table.setBigUint64(8, word);
    assert.throws(() => codec.decodeL1(table, 1, entry), { code: "invalid-image", message: /L1 entry 1 is 0x/ });
  }
});

test(`every entry comes back as it was written (seed ${seed})`, () => {
  const shape = fc.record({
    version: fc.constantFrom(2 as const, 3 as const),
    clusterBits: fc.integer({ min: 9, max: 21 }),
    host: fc.maxSafeNat(),
    owned: fc.boolean(),
    masks: fc.tuple(fc.nat({ max: 0xffffffff }), fc.nat({ max: 0xffffffff })),
    large: fc.boolean(),
  });
  fc.assert(
    fc.property(shape, ({ version, clusterBits, host, owned, masks: [first, second], large }) => {
      const extendedL2 = large && version === 3 && clusterBits >= 14;
      const codec = qcow2Codec({ version, clusterBits, extendedL2, name: "disk" });
      const aligned = host - (host % 2 ** clusterBits);
      const zero = extendedL2 ? first : version === 3 ? first & 1 : 0;
      const data = aligned === 0 ? 0 : extendedL2 ? (second & ~first) >>> 0 : 1 - zero;
      const entry = { host: aligned, compressedLength: 0, owned: owned && aligned !== 0, data, zero };
      const table = new DataView(new ArrayBuffer(3 * codec.entryBytes));
      codec.encode(table, 1, entry);
      const read = newEntry();
      codec.decode(table, 1, read);
      assert.deepEqual(read, entry);
      codec.decode(table, 2, read);
      assert.deepEqual(read, { host: 0, compressedLength: 0, owned: false, data: 0, zero: 0 });
    }),
    { seed },
  );
});
