/**
 * Images made to hurt. Each is refused with a typed error, or read harmlessly, after work that its own size explains: counted at the
 * file, not by a clock. And whatever is written to them never reaches their metadata.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import { isOverlay, layerExtents } from "../../src/block/index.ts";
import { openChain } from "../../src/chain/index.ts";
import { type ErrorCode, StreamdiskError } from "../../src/errors/index.ts";
import { createFormat, type FormatNode, openFormat } from "../../src/formats/index.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { BoundedNode, type Bounds } from "./bounded-node.ts";
import { MARKER } from "./metadata.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const CLUSTER = 64 * KIB;
const COPIED = 2n ** 63n;
/** What the header and a few tables take. */
const SMALL: Bounds = { operations: 100, bytes: 2 * MIB };

type Format = "qcow2" | "qed";
type Modes = readonly ("read" | "check" | "write")[];
const ALL_MODES: Modes = ["read", "check", "write"];

interface Image {
  readonly file: MemoryNode;
  /** Puts numbers of 4 or 8 bytes, in the byte order of the format. */
  readonly put: (at: number, value: number | bigint, bytes?: 4 | 8) => Promise<void>;
}

/** An empty image of 64 KiB clusters: header, refcount table at 1, block at 2, L1 at 3 (qcow2); header, L1 (QED). */
async function image(format: Format, options: Readonly<Record<string, string>> = {}, size = 2 ** 30): Promise<Image> {
  const file = new MemoryNode(0, { name: "bomb" });
  await createFormat(format, file, { size, options });
  const put: Image["put"] = async (at, value, bytes = 8) => {
    const cell = Buffer.alloc(bytes);
    if (bytes === 4) format === "qed" ? cell.writeUInt32LE(Number(value)) : cell.writeUInt32BE(Number(value));
    else format === "qed" ? cell.writeBigUInt64LE(BigInt(value)) : cell.writeBigUInt64BE(BigInt(value));
    await file.write(at, cell);
  };
  return { file, put };
}

/** Runs `act`: a typed error is its answer, any other is the test's. */
async function typed<T>(act: () => Promise<T>): Promise<T | StreamdiskError> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof StreamdiskError) return error;
    throw error;
  }
}

function mustBeWithin(file: BoundedNode): void {
  assert.equal(file.exceeded, undefined, file.exceeded?.message);
}

function open(format: Format, file: BoundedNode, mode: Modes[number]): Promise<FormatNode> {
  return openFormat(format, file, { readOnly: mode !== "write", forCheck: mode === "check" });
}

async function mustRefuse(
  format: Format,
  { file }: Image,
  codes: readonly ErrorCode[],
  message: RegExp,
  modes = ALL_MODES,
): Promise<void> {
  for (const mode of modes) {
    const bounded = new BoundedNode(file, SMALL);
    await assert.rejects(open(format, bounded, mode), (error) => {
      assert.ok(error instanceof StreamdiskError, `${mode}: ${error}`);
      assert.ok(codes.includes(error.code), `${mode}: ${error.code}`);
      assert.match(error.message, message);
      return true;
    });
    mustBeWithin(bounded);
  }
}

/** Opens in every way and does everything that one can do, within bounds. */
async function mustBeHarmless(format: Format, { file }: Image, bounds: Bounds): Promise<void> {
  for (const mode of ALL_MODES) {
    const bounded = new BoundedNode(file, bounds);
    const node = await typed(() => open(format, bounded, mode));
    mustBeWithin(bounded);
    if (node instanceof StreamdiskError) continue;
    const acts = {
      read: [() => look(node)],
      check: [() => node.check()],
      write: [() => look(node), () => scribble(node)],
    };
    for (const act of acts[mode] as readonly (() => Promise<unknown>)[]) {
      bounded.restart();
      await typed(act);
      mustBeWithin(bounded);
    }
    bounded.restart();
    await typed(() => node.close());
    mustBeWithin(bounded);
  }
}

async function look(node: FormatNode): Promise<void> {
  node.describe();
  let extents = 0;
  for await (const _extent of layerExtents(node)) if (++extents > 10_000) break;
  for (const offset of [0, node.length / 2, node.length - 512]) {
    await typed(() => node.read(Math.floor(Math.max(0, offset)), new Uint8Array(512)));
  }
}

const SCRIBBLE = Buffer.alloc(3 * CLUSTER, MARKER);

/** Writes, zeroes and gives back, at the beginning and at the end. */
async function scribble(node: FormatNode): Promise<void> {
  for (const offset of [0, Math.max(0, Math.floor(node.length - 4 * CLUSTER))]) {
    const length = Math.min(SCRIBBLE.length, node.length - offset);
    await typed(() => node.write(offset, SCRIBBLE.subarray(0, length)));
    await typed(() => node.write(offset, SCRIBBLE.subarray(0, 700)));
    await typed(() => node.writeZeroes(offset, length));
    await typed(() => node.write(offset, SCRIBBLE.subarray(0, 700)));
    await typed(() => node.discard(offset, length));
    if (isOverlay(node)) await typed(() => node.populate(0, SCRIBBLE.subarray(0, CLUSTER)));
    await typed(() => node.flush());
  }
}

const qcow2Headers: readonly [name: string, at: number, value: number | bigint, bytes: 4 | 8, message: RegExp][] = [
  ["an L1 table of 2^32 entries", 36, 0xffffffff, 4, /L1 table has 34359738360 bytes/],
  ["an L1 table past the end", 40, 2 ** 40, 8, /L1 table .* past the end/],
  ["an L1 table in the header", 40, 0, 8, /overlaps/],
  ["a refcount table of 2^32 clusters", 56, 0xffffffff, 4, /refcount table has \d+ bytes/],
  ["a refcount table that is the L1 table", 48, 3 * CLUSTER, 8, /overlaps/],
  ["2^32 snapshots", 60, 0xffffffff, 4, /4294967295 snapshots/],
  ["a header of 4 GiB", 100, 0xfffffff8, 4, /length of 4294967288/],
  ["an extension of 4 GiB", 116, 0xffffffff, 4, /has 4294967295 bytes/],
  ["a virtual size of 2^63", 24, 2n ** 63n, 8, /9223372036854775808|virtual size/],
  ["a virtual size that the L1 table cannot have", 24, 2n ** 52n, 8, /needs \d+/],
  ["clusters of 2^31 bytes", 20, 31, 4, /2\^31/],
  ["counts of 2^32 bits", 96, 32, 4, /2\^32 bits/],
  ["a backing name of 4 GiB", 16, 0xffffffff, 4, /name of its backing file/],
];

for (const [name, at, value, bytes, message] of qcow2Headers) {
  test(`qcow2: ${name}`, async () => {
    const bomb = await image("qcow2");
    if (at === 16) await bomb.put(8, 1024);
    await bomb.put(at, value, bytes);
    // Tables that overlap leave an image that can be looked into.
    const modes: Modes = String(message).includes("overlaps") ? ["read", "write"] : ALL_MODES;
    await mustRefuse("qcow2", bomb, ["invalid-image", "unsupported"], message, modes);
    await mustBeHarmless("qcow2", bomb, SMALL);
  });
}

test("qcow2: a header full of extensions of no length", async () => {
  const bomb = await image("qcow2");
  for (let at = 112; at + 8 <= CLUSTER; at += 8) await bomb.put(at, 0x1234567800000000n);
  await mustRefuse("qcow2", bomb, ["invalid-image"], /more than 1024 header extensions/);
});

const qedHeaders: readonly [name: string, at: number, value: number | bigint, bytes: 4 | 8, message: RegExp][] = [
  ["clusters of 2 GiB", 4, 0x80000000, 4, /cluster size is 2147483648/],
  ["tables of 2^31 clusters", 8, 0x80000000, 4, /table size is 2147483648/],
  ["a header of 2^32 clusters", 12, 0xffffffff, 4, /header takes \d+ bytes/],
  ["an L1 table past the end", 40, 2n ** 62n, 8, /past the end/],
  ["an L1 table in the header", 40, 0, 8, /inside the header/],
  ["a virtual size of 2^63", 48, 2n ** 63n, 8, /virtual size/],
];

for (const [name, at, value, bytes, message] of qedHeaders) {
  test(`QED: ${name}`, async () => {
    const bomb = await image("qed");
    await bomb.put(at, value, bytes);
    await mustRefuse("qed", bomb, ["invalid-image", "unsupported"], message);
  });
}

test("QED: a backing name of 4 GiB", async () => {
  const bomb = await image("qed");
  await bomb.put(16, 1);
  await bomb.put(56, 64, 4);
  await bomb.put(60, 0xffffffff, 4);
  await mustRefuse("qed", bomb, ["invalid-image"], /has 4294967295 bytes/);
});

test("QED: tables of a gigabyte each, in a sparse file", async () => {
  const clusterSize = 64 * MIB;
  const { file, put } = await image("qed", { cluster_size: "64M", table_size: "16" }, 2 ** 40);
  await file.resize(64 * clusterSize);
  await put(clusterSize, 20 * clusterSize);
  await mustBeHarmless("qed", { file, put }, { operations: 40_000, bytes: 3 * 2 ** 30 });
  const bounded = new BoundedNode(file, { operations: 20, bytes: MIB });
  await using node = await open("qed", bounded, "read");
  await node.read(2 ** 39, new Uint8Array(512));
  mustBeWithin(bounded);
});

/** A quarter of the largest L1 table that there can be, filled with one entry; the file behind it is sparse. */
async function fullL1(entry: bigint, length: number): Promise<Image> {
  const bomb = await image("qcow2");
  const l1 = Buffer.alloc(8 * MIB);
  for (let at = 0; at < l1.length; at += 8) l1.writeBigUInt64BE(entry, at);
  await bomb.file.write(16 * CLUSTER, l1);
  await bomb.put(24, 2n ** 49n);
  await bomb.put(36, l1.length / 8, 4);
  await bomb.put(40, 16 * CLUSTER);
  await bomb.file.resize(length);
  return bomb;
}

for (const [name, entry] of [
  ["one table", BigInt(600 * CLUSTER) | COPIED],
  ["the header", COPIED],
  ["the L1 table itself", BigInt(16 * CLUSTER) | COPIED],
  ["a place past the end", BigInt(2 ** 50) | COPIED],
] as const) {
  test(`qcow2: a million L1 entries that point to ${name}`, async () => {
    const bomb = await fullL1(entry, 700 * CLUSTER);
    // The L1 table is read once, and written where an entry of it changes.
    const bounds = { operations: 2000, bytes: 20 * MIB };
    await mustBeHarmless("qcow2", bomb, bounds);
    // The same with the dirty bit: it is repaired, or refused, when it is opened for writing.
    await bomb.put(72, 1);
    await mustBeHarmless("qcow2", bomb, bounds);
  });
}

test("qcow2: a refcount table that names one full block a million times", async () => {
  const bomb = await image("qcow2");
  const table = Buffer.alloc(8 * MIB);
  for (let at = 0; at < table.length; at += 8) table.writeBigUInt64BE(BigInt(2 * CLUSTER), at);
  await bomb.file.write(16 * CLUSTER, table);
  await bomb.file.write(2 * CLUSTER, new Uint8Array(CLUSTER).fill(0xff));
  await bomb.put(48, 16 * CLUSTER);
  await bomb.put(56, table.length / CLUSTER, 4);
  await mustBeHarmless("qcow2", bomb, { operations: 500, bytes: 20 * MIB });
  await bomb.put(72, 1);
  await mustBeHarmless("qcow2", bomb, { operations: 500, bytes: 20 * MIB });
});

test("qcow2: a thousand snapshots that all point to one table", async () => {
  const bomb = await image("qcow2");
  const entries = Buffer.alloc(1000 * 40);
  const l1 = Buffer.alloc(4096);
  for (let at = 0; at < l1.length; at += 8) l1.writeBigUInt64BE(BigInt(4 * CLUSTER), at);
  for (let index = 0; index < 1000; index++) {
    entries.writeBigUInt64BE(BigInt((100 + index) * CLUSTER), index * 40);
    entries.writeUInt32BE(l1.length / 8, index * 40 + 8);
    await bomb.file.write((100 + index) * CLUSTER, l1);
  }
  await bomb.file.write(50 * CLUSTER, entries);
  await bomb.put(60, 1000, 4);
  await bomb.put(64, 50 * CLUSTER);
  await mustBeHarmless("qcow2", bomb, { operations: 4000, bytes: 200 * MIB });
});

test("qcow2: a snapshot table without end", async () => {
  const bomb = await image("qcow2");
  await bomb.put(60, 65536, 4);
  await bomb.put(64, 50 * CLUSTER);
  await bomb.file.resize(2 ** 40);
  // Each entry has the longest extra data, id and name.
  const entry = Buffer.alloc(40);
  entry.writeUInt16BE(0xffff, 12);
  entry.writeUInt16BE(0xffff, 14);
  entry.writeUInt32BE(1024, 36);
  for (let at = 50 * CLUSTER, end = at + 40 * MIB; at < end; at += Math.ceil((40 + 1024 + 2 * 0xffff) / 8) * 8) {
    await bomb.file.write(at, entry);
  }
  const bounded = new BoundedNode(bomb.file, { operations: 50, bytes: 64 * MIB });
  await assert.rejects(open("qcow2", bounded, "read"), {
    code: "invalid-image",
    message: /longer than 33554432 bytes/,
  });
  mustBeWithin(bounded);
});

test("qcow2: bitmaps of terabytes", async () => {
  const bomb = await image("qcow2");
  const extension = Buffer.alloc(40);
  extension.writeUInt32BE(0x23852875, 0);
  extension.writeUInt32BE(24, 4);
  extension.writeUInt32BE(65535, 8);
  extension.writeBigUInt64BE(BigInt(2 ** 40), 16);
  extension.writeBigUInt64BE(BigInt(64 * CLUSTER), 24);
  await bomb.file.write(112, extension);
  await bomb.put(88, 1);
  await bomb.file.resize(2 ** 42);
  await mustRefuse("qcow2", bomb, ["invalid-image"], /directory has 1099511627776 bytes/);
});

/** Where all metadata of a small image lies, and what lay there: nothing that is written may show up in it. */
async function mustKeepMetadata(
  format: Format,
  { file, put }: Image,
  areas: readonly (readonly [number, number])[],
): Promise<void> {
  await mustBeHarmless(format, { file, put }, { operations: 5000, bytes: 64 * MIB });
  for (const [at, length] of areas) {
    const bytes = new Uint8Array(length);
    await file.read(at, bytes);
    assert.ok(!Buffer.from(bytes).includes(MARKER), `guest data lies at ${at}`);
  }
  // It is still what it was: an image.
  await open(format, new BoundedNode(file, SMALL), "read");
}

const AREAS = [0, 1, 2, 3, 4].map((cluster) => [cluster * CLUSTER, CLUSTER] as const);

for (const [name, host] of [
  ["the refcount table", CLUSTER],
  ["a refcount block", 2 * CLUSTER],
  ["the L1 table", 3 * CLUSTER],
  ["its own table", 4 * CLUSTER],
] as const) {
  for (const flags of [COPIED, 0n]) {
    test(`qcow2: clusters of the disk that are ${name}${flags === 0n ? ", shared" : ""}`, async () => {
      const bomb = await image("qcow2");
      await bomb.put(3 * CLUSTER, BigInt(4 * CLUSTER) | COPIED);
      for (let index = 0; index < CLUSTER / 8; index++) await bomb.put(4 * CLUSTER + index * 8, BigInt(host) | flags);
      await bomb.file.resize(6 * CLUSTER);
      await mustKeepMetadata("qcow2", bomb, AREAS);
    });
    test(`qcow2: an L2 table that is ${name}${flags === 0n ? ", shared" : ""}`, async () => {
      const bomb = await image("qcow2");
      await bomb.put(3 * CLUSTER, BigInt(host) | flags);
      await bomb.file.resize(6 * CLUSTER);
      await mustKeepMetadata("qcow2", bomb, AREAS.slice(0, 4));
    });
  }
}

for (const [name, host] of [
  ["the header", 0n],
  ["the refcount table", BigInt(CLUSTER)],
  ["the L1 table", BigInt(3 * CLUSTER)],
  ["a table of the disk", BigInt(4 * CLUSTER)],
  ["past the end", 2n ** 50n],
  ["unaligned", BigInt(2 * CLUSTER + 512)],
] as const) {
  test(`qcow2: a refcount block that is ${name}`, async () => {
    const bomb = await image("qcow2");
    await bomb.put(3 * CLUSTER, BigInt(4 * CLUSTER) | COPIED);
    await bomb.file.resize(6 * CLUSTER);
    await bomb.put(CLUSTER, host);
    await mustKeepMetadata("qcow2", bomb, AREAS);
  });
}

test("qcow2: counts that say that all metadata is free", async () => {
  const bomb = await image("qcow2");
  await bomb.put(3 * CLUSTER, BigInt(4 * CLUSTER) | COPIED);
  await bomb.file.resize(6 * CLUSTER);
  await bomb.file.writeZeroes(2 * CLUSTER, CLUSTER);
  await mustKeepMetadata("qcow2", bomb, AREAS);
});

for (const [name, host] of [
  ["the L1 table", CLUSTER],
  ["their own table", 5 * CLUSTER],
] as const) {
  test(`QED: clusters of the disk that are ${name}`, async () => {
    const bomb = await image("qed");
    await bomb.put(CLUSTER, 5 * CLUSTER);
    for (let index = 0; index < 1000; index++) await bomb.put(5 * CLUSTER + index * 8, host);
    await bomb.file.resize(12 * CLUSTER);
    await mustKeepMetadata("qed", bomb, [[0, 9 * CLUSTER]]);
    // need_check: it is repaired as far as that goes when it is opened for writing.
    await bomb.put(16, 2);
    await mustKeepMetadata("qed", bomb, [[0, 9 * CLUSTER]]);
  });
}

test("QED: an L1 table that is its own table", async () => {
  const bomb = await image("qed");
  for (let index = 0; index < 1000; index++) await bomb.put(CLUSTER + index * 8, CLUSTER);
  await mustKeepMetadata("qed", bomb, [[0, 5 * CLUSTER]]);
});

for (const format of ["qcow2", "qed"] as const) {
  test(`${format}: a file of 2^53 bytes with next to nothing in it`, async () => {
    const bomb = await image(format);
    await bomb.file.resize(Number.MAX_SAFE_INTEGER - CLUSTER);
    await mustBeHarmless(format, bomb, SMALL);
    await bomb.put(format === "qcow2" ? 72 : 16, format === "qcow2" ? 1 : 2);
    await mustBeHarmless(format, bomb, SMALL);
    const bounded = new BoundedNode(bomb.file, SMALL);
    const node = await typed(() => open(format, bounded, "write"));
    if (!(node instanceof StreamdiskError)) await typed(() => node.check({ repair: "leaks" }));
    mustBeWithin(bounded);
  });
}

test("qcow2: clusters that expand to more than they may", async () => {
  const gigabyte = Buffer.alloc(2 ** 28);
  for (const [type, packed] of [
    ["zlib", deflateRawSync(gigabyte)],
    ["zstd", zstdCompressSync(gigabyte)],
  ] as const) {
    const bomb = await image("qcow2", { compression_type: type });
    const sectors = Math.min(255, Math.ceil(packed.length / 512));
    await bomb.put(3 * CLUSTER, BigInt(4 * CLUSTER) | COPIED);
    await bomb.put(4 * CLUSTER, (1n << 62n) | (BigInt(sectors) << 54n) | BigInt(5 * CLUSTER));
    await bomb.file.write(5 * CLUSTER, packed.subarray(0, 256 * 512));
    await bomb.file.resize(9 * CLUSTER);
    const before = process.memoryUsage().arrayBuffers;
    await using node = await open("qcow2", new BoundedNode(bomb.file, SMALL), "read");
    await assert.rejects(node.read(0, new Uint8Array(512)), { code: "invalid-image", message: /cannot be expanded/ });
    assert.ok(process.memoryUsage().arrayBuffers - before < 16 * MIB);
  }
});

test("backing files: the system's secrets, loops, and what lies elsewhere", async () => {
  const directory = await mkdtemp(join(tmpdir(), "streamdisk-bombs-"));
  try {
    for (const format of ["qcow2", "qed"] as const) {
      const make = async (name: string, reference: string, backingFormat: string) => {
        const file = new MemoryNode(0, { name });
        await createFormat(format, file, { size: MIB, backing: { reference, format: backingFormat } });
        await file.save(join(directory, name));
        return join(directory, name);
      };
      for (const secret of ["/etc/shadow", "../../../../../../etc/shadow", "file:/etc/shadow", "file:///etc/shadow"]) {
        const top = await make(`secret.${format}`, secret, "raw");
        await assert.rejects(openChain({ file: top, readOnly: true }), { code: "refused" }, secret);
      }
      await make(`a.${format}`, `b.${format}`, format);
      await make(`b.${format}`, `c.${format}`, format);
      const loop = await make(`c.${format}`, `a.${format}`, format);
      await assert.rejects(openChain({ file: loop, readOnly: true }), { code: "invalid-image" });
      for (let index = 1; index <= 80; index++) await make(`${index}.${format}`, `${index - 1}.${format}`, format);
      await writeFile(join(directory, `0.${format}`), "");
      const deep = join(directory, `80.${format}`);
      await assert.rejects(openChain({ file: deep, readOnly: true }), {
        code: "invalid-image",
        message: /deeper than/,
      });
    }
  } finally {
    await rm(directory, { recursive: true });
  }
});
