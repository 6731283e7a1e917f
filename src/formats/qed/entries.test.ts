import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClusterEntry, TableEntry } from "../mapped/codec.ts";
import { qedCodec } from "./entries.ts";

const CLUSTER = 65536;
const codec = qedCodec({ clusterSize: CLUSTER, tableBytes: 4 * CLUSTER, name: "x.qed" });

const cluster = (): ClusterEntry => ({ host: 7, compressedLength: 7, owned: false, data: 7, zero: 7 });
const table = (): TableEntry => ({ host: 7, owned: false });
const view = () => new DataView(new ArrayBuffer(4 * 8));

test("the three kinds of L2 entries", () => {
  const bytes = view();
  bytes.setBigUint64(8, 1n, true);
  bytes.setBigUint64(16, 0x0000_0123_4567_0000n, true);
  const found = [0, 1, 2].map((index) => {
    const entry = cluster();
    codec.decode(bytes, index, entry);
    return entry;
  });
  assert.deepEqual(found, [
    { host: 0, compressedLength: 0, owned: true, data: 0, zero: 0 },
    { host: 0, compressedLength: 0, owned: true, data: 0, zero: 1 },
    { host: 0x0123_4567_0000, compressedLength: 0, owned: true, data: 1, zero: 0 },
  ]);
  const copy = view();
  found.forEach((entry, index) => {
    codec.encode(copy, index, entry);
  });
  assert.deepEqual(copy.buffer, bytes.buffer);
});

test("writing an entry leaves nothing of the old one", () => {
  const bytes = view();
  for (const entry of [
    { ...cluster(), host: 2 ** 52, data: 1, zero: 0 },
    { ...cluster(), host: CLUSTER, data: 1, zero: 0 },
    { ...cluster(), host: 2 ** 52, data: 0, zero: 1 },
    { ...cluster(), host: 0, data: 0, zero: 0 },
  ]) {
    codec.encode(bytes, 3, entry);
    assert.equal(bytes.getBigUint64(24, true), entry.data ? BigInt(entry.host) : BigInt(entry.zero));
  }
});

test("L1 entries", () => {
  const bytes = view();
  const entry = table();
  codec.decodeL1(bytes, 0, entry);
  assert.deepEqual(entry, { host: 0, owned: true });
  codec.encodeL1(bytes, 2, { host: 2 ** 40, owned: true });
  codec.decodeL1(bytes, 2, entry);
  assert.deepEqual(entry, { host: 2 ** 40, owned: true });
});

test("offsets that no image can have are refused", () => {
  const bytes = view();
  for (const value of [
    2n,
    512n,
    65537n,
    0x0000_0123_4567_0001n,
    1n << 53n,
    (1n << 53n) - 65536n,
    0xffff_ffff_ffff_0000n,
    (1n << 32n) | 1n,
  ]) {
    bytes.setBigUint64(8, value, true);
    const expected = { code: "invalid-image", message: new RegExp(`entry 1 is 0x${value.toString(16)}`) };
    assert.throws(() => codec.decode(bytes, 1, cluster()), expected, String(value));
    assert.throws(() => codec.decodeL1(bytes, 1, table()), expected, String(value));
  }
  bytes.setBigUint64(8, 1n, true);
  assert.throws(() => codec.decodeL1(bytes, 1, table()), { code: "invalid-image" });
});
