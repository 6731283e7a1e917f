import assert from "node:assert/strict";
import { test } from "node:test";
import { setUint64, viewOf } from "./big-endian.ts";
import { EXTENSION, encodeExtensions } from "./extensions.ts";
import { featureNameTable } from "./features.ts";
import { compressionType, hasExtendedL2, isCorrupt, isDirty, mustBeWritable } from "./header.ts";
import { encodeHeader } from "./header-encode.ts";
import { parseHeader } from "./header-parse.ts";

const FILE = 10 * 65536;

/** A valid first cluster of version 3 (10 MiB, clusters of 64 KiB), to be spoilt. */
function image(version: 2 | 3 = 3): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(65536);
  const view = viewOf(bytes);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, version);
  view.setUint32(20, 16);
  setUint64(view, 24, 10 * 2 ** 20);
  view.setUint32(36, 1);
  setUint64(view, 40, 3 * 65536);
  setUint64(view, 48, 65536);
  view.setUint32(56, 1);
  if (version === 3) {
    view.setUint32(96, 4);
    view.setUint32(100, 112);
  }
  return { bytes, view };
}

const parse = ({ bytes }: { bytes: Uint8Array }, forCheck = false) => parseHeader(bytes, "disk", FILE, { forCheck });

test("a header is read and written alike", () => {
  for (const version of [2, 3] as const) {
    const made = image(version);
    const start = version === 2 ? 72 : 112;
    const list = encodeExtensions([
      { type: EXTENSION.backingFormat, data: new TextEncoder().encode("qed") },
      { type: 0x12345678, data: Uint8Array.of(1, 2, 3) },
      { type: EXTENSION.featureNames, data: featureNameTable() },
    ]);
    made.bytes.set(list, start);
    made.bytes.set(new TextEncoder().encode("bäse"), start + list.length);
    setUint64(made.view, 8, start + list.length);
    made.view.setUint32(16, 5);
    const header = parse(made);
    assert.deepEqual(header.backing, { reference: "bäse", format: "qed" });
    assert.equal(header.refcountOrder, 4);
    assert.deepEqual(header.damage, []);
    const again = encodeHeader(header, "disk");
    assert.deepEqual(again, made.bytes.subarray(0, again.length));
    assert.equal(again.length, start + list.length + 5);
  }
});

test("additional fields that are not known are kept", () => {
  const made = image();
  made.view.setUint32(100, 128);
  made.view.setUint8(124, 0x77);
  assert.deepEqual(encodeHeader(parse(made), "disk"), made.bytes.subarray(0, 136));
});

test("a list of extensions may end at the name of the backing file, without a mark", () => {
  const made = image(2);
  setUint64(made.view, 8, 72);
  made.view.setUint32(16, 4);
  made.bytes.set(new TextEncoder().encode("base"), 72);
  const header = parse(made);
  assert.deepEqual(header.backing, { reference: "base", format: undefined });
  assert.equal(header.extensionList.endMark, false);
  assert.deepEqual(encodeHeader(header, "disk"), made.bytes.subarray(0, 76));
});

/** 32-bit words that replace those at the given places. */
type Words = Readonly<Record<number, number>>;

const SPOILT: readonly [what: string, words: Words, message: RegExp][] = [
  ["magic", { 0: 0x514649fc }, /begin with 'QFI'/],
  ["clusters too small", { 20: 8 }, /2\^8 bytes, not 2\^9 to 2\^21/],
  ["clusters too large", { 20: 22 }, /2\^22 bytes/],
  ["header length", { 100: 100 }, /length of 100, not a multiple of 8/],
  ["header longer than a cluster", { 100: 65544 }, /length of 65544/],
  ["refcount width", { 96: 7 }, /2\^7 bits/],
  ["L1 bomb", { 36: 0xffffffff }, /L1 table has 34359738360 bytes, more than 33554432/],
  ["L1 too small", { 24: 256 }, /has 1 entries, and its virtual size .* needs 2049/],
  ["L1 unaligned", { 44: 3 * 65536 + 512 }, /L1 table at 197120 is not aligned/],
  ["L1 past the end", { 44: FILE }, /L1 table \(8 bytes at 655360\) reaches past the end/],
  ["L1 far past the end", { 40: 0xffffffff }, /reaches past the end/],
  ["L1 over the header", { 44: 0 }, /L1 table .* overlaps its header/],
  ["refcount bomb", { 56: 129 }, /refcount table has 8454144 bytes, more than 8388608/],
  ["no refcount table", { 56: 0 }, /no refcount table/],
  ["refcounts over L1", { 52: 3 * 65536 }, /overlaps its/],
  ["snapshot bomb", { 60: 65537 }, /65537 snapshots/],
  ["snapshots outside", { 60: 65536 }, /snapshot table \(2621440 bytes at 0\)/],
  ["name too long", { 12: 200, 16: 1024 }, /1024 bytes, more than 1023/],
  ["name in the fields", { 12: 100, 16: 4 }, /lies outside the header's room/],
  ["name outside", { 12: 65533, 16: 4 }, /lies outside/],
  ["name not UTF-8", { 12: 200, 16: 1, 200: 0xff000000 }, /not UTF-8/],
  ["name with a zero", { 12: 200, 16: 1 }, /zero byte/],
  ["long extension", { 112: 9, 116: 0xfffffff8 }, /0x9 at 112 has 4294967288/],
  ["format twice", { 112: 0xe2792aca, 120: 0xe2792aca }, /there twice/],
  ["encryption method", { 32: 3 }, /encryption method is 3/],
  ["compression without its bit", { 104: 0x01000000 }, /compression type is 1.* not set/],
  ["compression bit alone", { 76: 8 }, /compression type is 0.* is set/],
  ["small extended", { 76: 16, 20: 13 }, /extended L2 entries, and clusters of only 8192/],
];

for (const [what, words, message] of SPOILT) {
  test(`refused as invalid: ${what}`, () => {
    const made = image();
    for (const [at, word] of Object.entries(words)) made.view.setUint32(Number(at), word);
    assert.throws(() => parse(made), { code: "invalid-image", message });
  });
}

test("ten thousand extensions are refused", () => {
  const made = image();
  for (let at = 112; at < 65536; at += 8) made.view.setUint32(at, 0x99);
  assert.throws(() => parse(made), { code: "invalid-image", message: /more than 1024 header extensions/ });
});

test("a file that was cut off is refused at every length", () => {
  for (const length of [0, 4, 23, 71, 103, 111]) {
    assert.throws(() => parseHeader(image().bytes.subarray(0, length), "disk", length), { code: "invalid-image" });
  }
});

test("what is not implemented is refused by name", () => {
  const table = new Uint8Array(96);
  table.set([1, 5, 0x4e], 0);
  table.set([0, 5, ...new TextEncoder().encode("holo\x1bgraphy")], 48);
  const cases: [Words, RegExp][] = [
    [{ 4: 4 }, /version 4/],
    [{ 32: 1 }, /encrypted \(AES\)/],
    [{ 32: 2 }, /encrypted \(LUKS\)/],
    [{ 76: 4 }, /external data file/],
    [{ 76: 0x10000 }, /incompatible bit 16$/],
    [{ 76: 0x21 }, /incompatible bit 5 \('holo\?graphy'\)$/],
    [{ 76: 8, 104: 0x02000000 }, /compression type 2/],
    [{ 24: 2 ** 28 }, /virtual size/],
  ];
  for (const [words, message] of cases) {
    const made = image();
    made.bytes.set(encodeExtensions([{ type: EXTENSION.featureNames, data: table }]), 112);
    for (const [at, word] of Object.entries(words)) made.view.setUint32(Number(at), word);
    assert.throws(() => parse(made), { code: "unsupported", message });
  }
});

test("check sees damage that leaves the mapping readable", () => {
  const made = image();
  setUint64(made.view, 48, 3 * 65536);
  assert.match(parse(made, true).damage.join(), /overlaps/);
  made.view.setUint32(56, 0);
  assert.match(parse(made, true).damage.join(), /no refcount table/);
});

test("features", () => {
  const made = image();
  made.view.setUint8(79, 1 | 2 | 8 | 16);
  made.view.setUint8(104, 1);
  const header = parse(made);
  assert.deepEqual([isDirty(header), isCorrupt(header), hasExtendedL2(header)], [true, true, true]);
  assert.equal(compressionType(header), "zstd");
  assert.throws(() => mustBeWritable(header, "disk"), { code: "refused", message: /qemu-img check -r all/ });
  assert.equal(compressionType(parse(image(2))), "zlib");
});
