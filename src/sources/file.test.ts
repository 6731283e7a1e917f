import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { layerExtents } from "../block/index.ts";
import { nativeCalls } from "../host/index.ts";
import { openFile } from "./file.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-file-"));
after(() => rmSync(directory, { recursive: true }));

const MIB = 1024 * 1024;
const native = nativeCalls() !== undefined;
const writable = { readOnly: false };

let files = 0;
function made(content: Uint8Array | number): string {
  const path = join(directory, `f${files++}`);
  writeFileSync(path, typeof content === "number" ? Buffer.alloc(content, 0x5a) : content);
  return path;
}

async function bytesOf(node: Awaited<ReturnType<typeof openFile>>, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length, 0xee);
  await node.read(offset, bytes);
  return bytes;
}

test("what is written is read, at any offset, and what lies between is zero", async () => {
  const path = join(directory, "new");
  await using file = await openFile(path, { ...writable, create: true });
  assert.deepEqual([file.length, file.grows, file.readOnly, file.name], [0, true, false, path]);
  await file.write(1_000_003, Buffer.from("tail"));
  await file.write(7, Buffer.from("head"));
  assert.equal(file.length, 1_000_007);
  assert.deepEqual(await bytesOf(file, 5, 8), Buffer.from("\0\0head\0\0"));
  assert.deepEqual(await bytesOf(file, 1_000_003, 4), Buffer.from("tail"));
  await file.write(file.length, new Uint8Array(0));
  await file.read(file.length, new Uint8Array(0));
  assert.equal(file.length, 1_000_007);
});

test("ranges that are no ranges of the file are refused with the numbers", async () => {
  await using file = await openFile(made(1000), writable);
  const code = "invalid-argument";
  await assert.rejects(file.read(990, new Uint8Array(11)), { code, message: /read 11 bytes at 990 .*1000 bytes/ });
  for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
    await assert.rejects(file.read(offset, new Uint8Array(1)), { code });
    await assert.rejects(file.write(offset, new Uint8Array(1)), { code });
  }
  await assert.rejects(file.discard(500, 501), { code });
  await assert.rejects(file.extents(0, 1001), { code });
  await assert.rejects(file.resize(-1), { code });
});

test("a file that is cut short under a reader has changed", async () => {
  const path = made(1000);
  await using file = await openFile(path, { readOnly: true });
  truncateSync(path, 600);
  await assert.rejects(file.read(500, new Uint8Array(200)), { code: "changed", message: /ended at 600/ });
});

test("zeroes inside, across the end and past it", async () => {
  const path = made(4 * MIB);
  await using file = await openFile(path, writable);
  await file.writeZeroes(MIB + 1, 2 * MIB);
  assert.deepEqual(await bytesOf(file, MIB - 1, 4), Buffer.from([0x5a, 0x5a, 0, 0]));
  assert.deepEqual(await bytesOf(file, 3 * MIB - 1, 3), Buffer.from([0, 0, 0x5a]));
  await file.writeZeroes(4 * MIB - 3, 10);
  await file.writeZeroes(5 * MIB, 5);
  assert.equal(file.length, 5 * MIB + 5);
  assert.equal(statSync(path).size, 5 * MIB + 5);
  assert.deepEqual(await bytesOf(file, 4 * MIB - 4, 4), Buffer.from([0x5a, 0, 0, 0]));
  await file.writeZeroes(0, 0);
  await file.writeZeroes(9 * MIB, 0);
  assert.equal(file.length, 5 * MIB + 5);
  if (native) assert.ok((await file.allocatedBytes()) <= 3 * MIB, "space was given back");
});

test("zeroes past the end don't cut off what is written behind them meanwhile", async () => {
  for (let round = 0; round < 40; round++) {
    await using file = await openFile(made(10), writable);
    const ends = Array.from({ length: 8 }, (_, index) => 100_000 + index * 5000);
    await Promise.all([
      ...ends.map((end) => file.write(end - 4, Buffer.from("last"))),
      file.writeZeroes(10, 90_000),
      file.resize(95_000),
    ]);
    for (const end of ends) assert.deepEqual(await bytesOf(file, end - 4, 4), Buffer.from("last"), `round ${round}`);
    assert.equal(file.length, ends.at(-1));
  }
});

test("a write that fails does not decide how long the file becomes", async () => {
  const path = made(10);
  await using file = await openFile(path, writable);
  const tooFar = Number.MAX_SAFE_INTEGER - 10;
  await assert.rejects(file.write(tooFar, new Uint8Array(5)), { code: "no-space" });
  assert.equal(file.length, 10);
  await file.resize(20);
  assert.deepEqual([file.length, statSync(path).size], [20, 20]);
});

test("a file whose offsets would not be exact is refused, and the longest other is read to its end", async (t) => {
  // A file system that has such files.
  const path = join(mkdtempSync("/dev/shm/streamdisk-file-"), "long");
  t.after(() => rmSync(dirname(path), { recursive: true }));
  writeFileSync(path, "");
  truncateSync(path, 2 ** 53 - 512);
  {
    await using file = await openFile(path, { readOnly: true });
    assert.deepEqual(await bytesOf(file, 2 ** 53 - 1024, 512), Buffer.alloc(512));
  }
  truncateSync(path, 2 ** 53 - 511);
  const message = `'${path}' has 9007199254740481 bytes, and no more than 9007199254740480 can be addressed`;
  await assert.rejects(openFile(path, { readOnly: true }), { code: "unsupported", message });
});

test("a discarded range reads as zeroes, or as before", async () => {
  await using file = await openFile(made(2 * MIB), writable);
  await file.discard(0, MIB);
  assert.deepEqual(await bytesOf(file, 0, MIB), Buffer.alloc(MIB, native ? 0 : 0x5a));
  assert.deepEqual(await bytesOf(file, MIB, MIB), Buffer.alloc(MIB, 0x5a));
  if (native) assert.ok((await file.allocatedBytes()) <= MIB + 64 * 1024);
});

test("holes are zero extents, data are data, and hosts are where they are", async () => {
  const path = made(0);
  truncateSync(path, 100 * MIB);
  await using file = await openFile(path, writable);
  await file.write(50 * MIB, Buffer.alloc(MIB, 1));
  const data = { offset: 50 * MIB, length: MIB, kind: "data", depth: 0, hostOffset: 50 * MIB };
  const seen = await file.extents(MIB, 90 * MIB);
  if (native) {
    assert.deepEqual(seen, [
      { offset: MIB, length: 49 * MIB, kind: "zero", depth: 0, hostOffset: MIB },
      data,
      { offset: 51 * MIB, length: 40 * MIB, kind: "zero", depth: 0, hostOffset: 51 * MIB },
    ]);
    assert.deepEqual(await file.extents(50 * MIB + 7, 10), [
      { ...data, offset: 50 * MIB + 7, length: 10, hostOffset: 50 * MIB + 7 },
    ]);
  } else {
    assert.deepEqual(seen, [{ offset: MIB, length: 90 * MIB, kind: "data", depth: 0, hostOffset: MIB }]);
  }
});

test("a great number of extents comes in several answers, without a gap", async () => {
  const path = made(0);
  const step = 128 * 1024;
  const pieces = 1300;
  truncateSync(path, pieces * step);
  await using file = await openFile(path, writable);
  for (let index = 0; index < pieces; index++) await file.write(index * step, Buffer.alloc(4096, 1));
  const first = await file.extents(0, file.length);
  assert.ok(first.length <= 1024);
  let position = 0;
  let data = 0;
  for await (const extent of layerExtents(file)) {
    assert.equal(extent.offset, position);
    position += extent.length;
    if (extent.kind === "data") data += extent.length;
  }
  assert.equal(position, file.length);
  assert.equal(data, native ? pieces * 4096 : file.length);
});

test("resize gives and takes away", async () => {
  const path = made(1000);
  await using file = await openFile(path, writable);
  await file.resize(500);
  await file.resize(2000);
  assert.deepEqual([file.length, statSync(path).size], [2000, 2000]);
  assert.deepEqual(await bytesOf(file, 499, 3), Buffer.from([0x5a, 0, 0]));
});

test("a read-only file is not changed", async () => {
  const path = made(1000);
  await using file = await openFile(path, { readOnly: true });
  const refused = { code: "permission", message: /read-only/ };
  await assert.rejects(file.write(0, Buffer.from("x")), refused);
  await assert.rejects(file.writeZeroes(0, 10), refused);
  await assert.rejects(file.discard(0, 10), refused);
  await assert.rejects(file.resize(10), refused);
  await file.flush();
  assert.deepEqual(readFileSync(path), Buffer.alloc(1000, 0x5a));
});

test("close waits for what is under way, and nothing begins after it", async () => {
  const path = made(10);
  const file = await openFile(path, writable);
  const write = file.write(0, Buffer.alloc(8 * MIB, 7));
  const closed = file.close();
  assert.equal(file.close(), closed);
  const code = "shutdown";
  await assert.rejects(file.read(0, new Uint8Array(1)), { code });
  await assert.rejects(file.write(0, new Uint8Array(1)), { code });
  await assert.rejects(file.writeZeroes(0, 1), { code });
  await assert.rejects(file.extents(0, 1), { code });
  await assert.rejects(file.flush(), { code });
  await Promise.all([write, closed]);
  assert.equal(statSync(path).size, 8 * MIB);
});

test("an aborted read is not begun", async () => {
  await using file = await openFile(made(10), { readOnly: true });
  await assert.rejects(file.read(0, new Uint8Array(1), AbortSignal.abort()), { name: "AbortError" });
});

test("what is no file is refused by its kind", async () => {
  const pipe = join(directory, "pipe");
  execFileSync("mkfifo", [pipe]);
  const socket = join(directory, "socket");
  const server = createServer().listen(socket);
  const folder = join(directory, "folder");
  mkdirSync(folder);
  try {
    for (const [path, kind] of [
      [folder, "a directory"],
      [pipe, "a named pipe"],
      ["/dev/zero", "a character device"],
      [socket, "a socket"],
    ] as const) {
      for (const readOnly of [true, false]) {
        await assert.rejects(openFile(path, { readOnly }), {
          code: "invalid-argument",
          message: new RegExp(`is ${kind}`),
        });
      }
    }
  } finally {
    server.close();
  }
});

test("names that lead nowhere, or somewhere already", async () => {
  const nowhere = join(directory, "nowhere");
  await assert.rejects(openFile(nowhere, writable), {
    code: "not-found",
    message: `Could not open '${nowhere}': no such file or directory`,
  });
  await assert.rejects(openFile(made(10), { ...writable, create: true }), { code: "exists" });
  await assert.rejects(openFile(join(nowhere, "x"), { ...writable, create: true }), { code: "not-found" });
  const dangling = join(directory, "dangling");
  symlinkSync(nowhere, dangling);
  await assert.rejects(openFile(dangling, { ...writable, create: true }), { code: "exists" });
});

test("the identity is the file's, by whatever name", async () => {
  const path = made(10);
  const link = join(directory, "link");
  symlinkSync(path, link);
  await using file = await openFile(path, { readOnly: true });
  await using same = await openFile(link, { readOnly: true });
  await using other = await openFile(made(10), { readOnly: true });
  assert.deepEqual(same.identity, file.identity);
  assert.notDeepEqual(other.identity, file.identity);
  assert.ok((await file.freeSpace()) > 0);
});

if (native) {
  test("all of this without the native calls", () => {
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const run = spawnSync(process.execPath, ["--test", import.meta.filename], {
      env: { ...env, STREAMDISK_NATIVE: "off" },
      encoding: "utf8",
    });
    assert.equal(run.status, 0, run.stdout + run.stderr);
  });
}

test("what is in the page cache is read at once; what is not there or not inside is left to read", async () => {
  const content = Buffer.from(Array.from({ length: 10_000 }, (_, index) => index % 251));
  await using file = await openFile(made(content), writable);
  const target = new Uint8Array(20_000).fill(0xee).subarray(5000);
  const part = target.subarray(1000, 5000);
  // A page may be dropped at any time; once in many tries it is there.
  const found = Array.from({ length: 10 }, () => file.readNow(3001, part)).some(Boolean);
  assert.equal(found, native);
  if (found) assert.deepEqual(Buffer.from(part), content.subarray(3001, 7001));
  assert.equal(target[999], 0xee);
  assert.equal(target[5000], 0xee);
  assert.equal(file.readNow(9000, new Uint8Array(1001)), false);
  assert.equal(file.readNow(-1, new Uint8Array(1)), false);
  await file.write(3001, Buffer.from("changed"));
  if (file.readNow(3001, part)) assert.equal(Buffer.from(part.subarray(0, 7)).toString(), "changed");
  await file.close();
  assert.equal(file.readNow(0, new Uint8Array(1)), false);
});

test("only a file that can be punched is zeroed faster than written", async () => {
  await using file = await openFile(made(10_000), writable);
  assert.equal(file.canZeroFast(), native);
  assert.equal(file.length, 10_000);
  await using readOnly = await openFile(made(10_000), { readOnly: true });
  assert.equal(readOnly.canZeroFast(), false);
});

if (native) {
  test("the tail of a file that was cut short is no hole", async () => {
    const path = made(MIB);
    await using file = await openFile(path, { readOnly: true });
    truncateSync(path, MIB / 2);
    assert.equal((await file.extents(0, MIB / 2)).at(-1)?.kind, "data");
    for (const [offset, length] of [[MIB / 2, 4096] as const, [MIB - 4096, 4096] as const, [0, MIB] as const]) {
      await assert.rejects(file.extents(offset, length), {
        code: "changed",
        message: /ended at \d+ when .* cut short/,
      });
    }
  });
}
