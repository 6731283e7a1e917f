import assert from "node:assert/strict";
import { test } from "node:test";
import { EXTENSION, type HeaderExtension } from "./extensions.ts";
import { featureNameTable } from "./features.ts";
import { isDirty, type Qcow2Header } from "./header.ts";
import { encodeHeader, withExtensions } from "./header-encode.ts";
import { parseHeader } from "./header-parse.ts";
import { type HeaderUpdate, setBacking, setFields, setMark } from "./header-update.ts";

const SECTOR = 512;

interface Shape {
  version: 2 | 3;
  clusterBits: number;
  extensions: HeaderExtension[];
}

function makeHeader({ version, clusterBits, extensions }: Shape): Qcow2Header {
  const clusterSize = 2 ** clusterBits;
  const header: Qcow2Header = {
    version,
    clusterBits,
    clusterSize,
    size: clusterSize,
    refcountOrder: 4,
    l1: { offset: 3 * clusterSize, entries: 1 },
    refcountTable: { offset: clusterSize, clusters: 1 },
    snapshots: { offset: 0, count: 0 },
    features: { incompatible: 0n, compatible: 0n, autoclear: version === 3 ? 5n : 0n },
    additional: new Uint8Array(version === 3 ? 8 : 0),
    extensionList: { extensions: [], end: 0, endMark: true },
    backing: undefined,
    backingName: undefined,
    damage: [],
  };
  return withExtensions(header, extensions);
}

function clusterOf(header: Qcow2Header): Uint8Array {
  const bytes = new Uint8Array(header.clusterSize);
  bytes.set(encodeHeader(header, "disk"));
  return bytes;
}

const parse = (bytes: Uint8Array) => parseHeader(bytes, "disk", 4 * bytes.length);

/**
 * Makes an update sector by sector, and shows every state that a crash can leave: within one write the sectors may arrive in
 * any order, so each is also tried alone.
 */
function apply(disk: Uint8Array, update: HeaderUpdate, seen: (header: Qcow2Header) => void): void {
  for (const { offset, bytes } of update.writes) {
    const sectors: { offset: number; bytes: Uint8Array }[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(SECTOR - ((offset + at) % SECTOR), bytes.length - at);
      sectors.push({ offset: offset + at, bytes: bytes.subarray(at, at + length) });
      at += length;
    }
    for (const one of sectors) {
      const crashed = disk.slice();
      crashed.set(one.bytes, one.offset);
      seen(parse(crashed));
    }
    for (const one of sectors) {
      disk.set(one.bytes, one.offset);
      seen(parse(disk));
    }
  }
}

const NAMES: HeaderExtension = { type: EXTENSION.featureNames, data: featureNameTable() };
const UNKNOWN: HeaderExtension = { type: 0x5eed, data: new Uint8Array(100).fill(7) };
const LARGE: HeaderExtension = { type: 0x1a26e, data: new Uint8Array(600).fill(8) };

const SHAPES: Record<string, Shape> = {
  "v2, 64 KiB": { version: 2, clusterBits: 16, extensions: [] },
  "v3, 512 B": { version: 3, clusterBits: 9, extensions: [] },
  "v3, 1 KiB, unknown extension": { version: 3, clusterBits: 10, extensions: [UNKNOWN] },
  "v3, 64 KiB, feature names": { version: 3, clusterBits: 16, extensions: [NAMES] },
  "v3, 64 KiB, feature names first": { version: 3, clusterBits: 16, extensions: [NAMES, UNKNOWN] },
  "v3, 4 KiB, a large extension": { version: 3, clusterBits: 12, extensions: [LARGE] },
};

const REFERENCES = [
  { reference: "base.raw", format: "raw" },
  { reference: "other/base.qcow2", format: "qcow2" },
  { reference: "x", format: undefined },
  { reference: `${"long/".repeat(60)}base`, format: "qed" },
  { reference: "a", format: "longer-format" },
  undefined,
  { reference: "nbd://host/export", format: "raw" },
  undefined,
];

for (const [name, shape] of Object.entries(SHAPES)) {
  test(`${name}: a crash leaves the old reference or the new one, and all extensions in the end`, () => {
    let header = makeHeader(shape);
    const disk = clusterOf(header);
    for (const reference of REFERENCES) {
      const before = header.backing;
      let update: HeaderUpdate;
      try {
        update = setBacking(header, reference, "disk");
      } catch (error) {
        // No room to move a large extension, or for two names: refused before anything is written.
        assert.equal((error as { code?: string }).code, "unsupported");
        assert.ok(shape.extensions.includes(LARGE) || shape.clusterBits < 11, `${name}: ${error}`);
        continue;
      }
      apply(disk, update, (seen) => {
        const is = JSON.stringify(seen.backing);
        assert.ok(
          is === JSON.stringify(before) || is === JSON.stringify(reference),
          `${is} on the way to ${reference?.reference}`,
        );
        assert.ok(seen.extensionList.endMark);
      });
      header = parse(disk);
      assert.deepEqual(header, update.header);
      assert.deepEqual(header.backing, reference);
      const kept = header.extensionList.extensions.filter(({ type }) => type !== EXTENSION.backingFormat);
      assert.deepEqual(kept, shape.extensions);
      const format = header.extensionList.extensions.some(({ type }) => type === EXTENSION.backingFormat);
      assert.equal(format, reference?.format !== undefined);
    }
  });
}

test("a list without an end mark gets one when the name that ended it goes", () => {
  const bare = {
    ...makeHeader({ version: 2, clusterBits: 16, extensions: [] }),
    backing: { reference: "base", format: undefined },
  };
  const old: Qcow2Header = {
    ...bare,
    backingName: { offset: 72, length: 4 },
    extensionList: { extensions: [], end: 72, endMark: false },
  };
  const disk = clusterOf(old);
  assert.equal(parse(disk).backing?.reference, "base");
  apply(disk, setBacking(parse(disk), undefined, "disk"), (seen) =>
    assert.equal(seen.extensionList.extensions.length, 0),
  );
  assert.equal(parse(disk).backing, undefined);
});

test("with a large extension behind it the link still breaks, in one write, and the format stays", () => {
  const header = makeHeader({ version: 3, clusterBits: 16, extensions: [LARGE] });
  const format = { type: EXTENSION.backingFormat, data: new TextEncoder().encode("raw") };
  const linked = withExtensions(header, [format, LARGE]);
  const disk = clusterOf({
    ...linked,
    backing: { reference: "base", format: "raw" },
    backingName: { offset: linked.extensionList.end, length: 4 },
  });
  const update = setBacking(parse(disk), undefined, "disk");
  assert.equal(update.writes.length, 1);
  apply(disk, update, () => {});
  assert.equal(parse(disk).backing, undefined);
  assert.deepEqual(parse(disk), update.header);
});

test("changes of fields are one write inside the first sector", () => {
  const header = makeHeader({ version: 3, clusterBits: 16, extensions: [NAMES] });
  const disk = clusterOf(header);
  const make = (update: HeaderUpdate) => {
    assert.equal(update.writes.length, 1);
    assert.ok(update.writes.every(({ offset, bytes }) => offset + bytes.length <= SECTOR));
    apply(disk, update, () => {});
    assert.deepEqual(parse(disk), update.header);
    return parse(disk);
  };
  assert.equal(isDirty(make(setMark(header, true))), true);
  assert.equal(isDirty(make(setMark(parse(disk), false))), false);
  assert.equal(parse(disk).features.autoclear, 0n);
  const fields = {
    size: 3 * 65536,
    l1: { offset: 2 * 65536, entries: 8 },
    refcountTable: { offset: 3 * 65536, clusters: 1 },
  };
  const changed = make(setFields(parse(disk), fields));
  assert.deepEqual([changed.size, changed.l1, changed.refcountTable], Object.values(fields));
});

test("names that cannot be are refused", () => {
  const header = makeHeader({ version: 3, clusterBits: 16, extensions: [] });
  for (const reference of ["", "a\0b", "x".repeat(1024)]) {
    assert.throws(() => setBacking(header, { reference, format: "raw" }, "disk"), { code: "invalid-argument" });
  }
});
