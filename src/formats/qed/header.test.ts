import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeBackingName,
  encodeQedHeader,
  parseQedHeader,
  type QedHeader,
  qedMaxSize,
  qemuCannotOpen,
} from "./header.ts";

const MIB = 2 ** 20;

/** A header as a file of `length` bytes would have it, with some 32-bit or 64-bit fields changed. */
function headerBytes(fields: { u32?: Record<number, number>; u64?: Record<number, bigint> } = {}): Uint8Array {
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  const u32: Record<number, number> = { 0: 0x00444551, 4: 65536, 8: 4, 12: 1, ...fields.u32 };
  const u64: Record<number, bigint> = { 40: 65536n, 48: BigInt(MIB), ...fields.u64 };
  for (const [at, value] of Object.entries(u32)) view.setUint32(Number(at), value, true);
  for (const [at, value] of Object.entries(u64)) view.setBigUint64(Number(at), value, true);
  return bytes;
}

const FILE = 5 * 65536;
const parse = (fields?: Parameters<typeof headerBytes>[0], length = FILE) =>
  parseQedHeader(headerBytes(fields), length, "x.qed");

test("every field is read and written back", () => {
  const header: QedHeader = {
    clusterSize: 8192,
    tableClusters: 2,
    headerClusters: 3,
    l1Offset: 4 * 8192,
    imageSize: 5 * 512,
    needCheck: true,
    backingName: { offset: 100, size: 9 },
    backingIsRaw: true,
    compatFeatures: 1n << 63n,
    autoclearFeatures: 5n,
  };
  const bytes = encodeQedHeader(header);
  assert.equal(
    Buffer.from(bytes.subarray(0, 24)).toString("hex"),
    "51454400002000000200000003000000" + "0700000000000000",
  );
  assert.deepEqual(parseQedHeader(bytes, 100 * 8192, "x.qed"), header);
});

test("all that the specification rules out is refused with its numbers", () => {
  const cases: [Parameters<typeof headerBytes>[0], RegExp][] = [
    [{ u32: { 0: 0xfb494651 } }, /does not begin with 'QED'/],
    [{ u32: { 4: 2048 } }, /cluster size is 2048/],
    [{ u32: { 4: 2 ** 27 } }, /cluster size is 134217728/],
    [{ u32: { 4: 65537 } }, /cluster size is 65537/],
    [{ u32: { 4: 0 } }, /cluster size is 0/],
    [{ u32: { 8: 0 } }, /table size is 0/],
    [{ u32: { 8: 3 } }, /table size is 3/],
    [{ u32: { 8: 32 } }, /table size is 32/],
    [{ u32: { 8: 0x80000000 } }, /table size is 2147483648/],
    [{ u32: { 12: 0 } }, /header size is 0/],
    [{ u32: { 12: 0xffffffff } }, /header takes 281474976645120 bytes, and the file has 327680; it was cut off/],
    [{ u64: { 40: 65537n } }, /L1 table at 65537 is not aligned/],
    [{ u64: { 40: 0n } }, /L1 table at 0 lies inside the header/],
    [{ u64: { 40: 131072n } }, /L1 table of 262144 bytes at 131072 reaches past the end of the file of 327680/],
    [{ u64: { 40: 0xffffffffffff0000n } }, /reaches past the end/],
    [{ u64: { 48: 513n } }, /virtual size is 513, not a multiple/],
    [
      { u64: { 48: (1n << 46n) + 512n } },
      /virtual size is 70368744178176, and its tables address at most 70368744177664/,
    ],
    [{ u64: { 16: 1n }, u32: { 56: 64, 60: 5000 } }, /5000 bytes, more than 4095/],
    [{ u64: { 16: 1n }, u32: { 56: 65530, 60: 7 } }, /7 bytes at 65530\) lies outside the header of 65536/],
    [{ u64: { 16: 1n }, u32: { 56: 63, 60: 7 } }, /7 bytes at 63\) lies outside/],
    [{ u64: { 16: 1n }, u32: { 56: 0xffffffff, 60: 7 } }, /lies outside/],
  ];
  for (const [fields, message] of cases) {
    assert.throws(() => parse(fields), { code: "invalid-image", message }, String(message));
  }
});

test("features that are not known are refused by number", () => {
  assert.throws(() => parse({ u64: { 16: 8n } }), { code: "unsupported", message: /feature bit 3\)/ });
  assert.throws(() => parse({ u64: { 16: (1n << 63n) | 9n } }), {
    code: "unsupported",
    message: /feature bits 3, 63\)/,
  });
  const header = parse({ u64: { 24: 1n << 40n, 32: 3n } });
  assert.equal(header.compatFeatures, 1n << 40n);
  assert.equal(header.autoclearFeatures, 3n);
});

test("a file that was cut off is refused with what is there", () => {
  assert.throws(() => parseQedHeader(headerBytes().subarray(0, 63), 63, "x.qed"), {
    code: "invalid-image",
    message: /it has 63 bytes, and the header alone has 64/,
  });
  assert.throws(() => parse({}, FILE - 1), { code: "invalid-image", message: /L1 table .* file of 327679 bytes/ });
  assert.throws(() => parse({}, 65535), {
    code: "invalid-image",
    message: /header takes 65536 bytes, and the file has 65535/,
  });
});

test("a size past 2^53 is valid and not supported", () => {
  const u32 = { 4: 2 ** 26, 8: 16 };
  const u64 = { 40: 2n ** 26n, 48: 2n ** 60n };
  assert.throws(() => parse({ u32, u64 }, 2 ** 26 * 17), { code: "unsupported", message: /1152921504606846976/ });
});

test("a name is UTF-8 without zero bytes, and raw or of unknown format", () => {
  const probed = parse({ u64: { 16: 1n }, u32: { 56: 64, 60: 8 } });
  assert.deepEqual(decodeBackingName(Buffer.from("grün.img"), probed, "x"), {
    reference: "grün.img",
    format: undefined,
  });
  const raw = parse({ u64: { 16: 5n }, u32: { 56: 64, 60: 8 } });
  assert.deepEqual(decodeBackingName(Buffer.from("a"), raw, "x"), { reference: "a", format: "raw" });
  assert.throws(() => decodeBackingName(Uint8Array.of(0x61, 0xff), raw, "x"), {
    code: "invalid-image",
    message: /UTF-8/,
  });
  assert.throws(() => decodeBackingName(Uint8Array.of(0x61, 0), raw, "x"), {
    code: "invalid-image",
    message: /zero byte/,
  });
  assert.equal(parse({ u64: { 16: 1n } }).backingName, undefined, "an empty name is none");
});

test("what tables address, and what of it QEMU opens", () => {
  assert.equal(qedMaxSize(65536, 4), 2 ** 46);
  assert.equal(qedMaxSize(4096, 1), 2 ** 30);
  assert.equal(qedMaxSize(2 ** 26, 16), 2 ** 80);
  assert.equal(qemuCannotOpen(65536, 4), undefined);
  assert.match(qemuCannotOpen(65536, 1) ?? "", /one cluster/);
  assert.match(qemuCannotOpen(2 ** 26, 16) ?? "", /67108864/);
});
