import assert from "node:assert/strict";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileRuns } from "./holes.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-holes-"));
const fd = openSync(join(directory, "f"), "w+");
after(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

const GIB = 2 ** 30;
const BLOCK = 64 * 1024;
ftruncateSync(fd, 4096 * GIB);
for (const at of [0, 3 * GIB, 4095 * GIB]) writeSync(fd, Buffer.alloc(BLOCK, 1), 0, BLOCK, at);

const all = [
  { offset: 0, length: BLOCK, hole: false },
  { offset: BLOCK, length: 3 * GIB - BLOCK, hole: true },
  { offset: 3 * GIB, length: BLOCK, hole: false },
  { offset: 3 * GIB + BLOCK, length: 4092 * GIB - BLOCK, hole: true },
  { offset: 4095 * GIB, length: BLOCK, hole: false },
  { offset: 4095 * GIB + BLOCK, length: GIB - BLOCK, hole: true },
];

for (const mayHang of [false, true]) {
  test(`runs of 4 TiB, ${mayHang ? "in another thread" : "at once"}`, async () => {
    assert.deepEqual(await fileRuns(fd, 0, 4096 * GIB, { limit: 100, mayHang }), all);
    assert.deepEqual(await fileRuns(fd, 0, 4096 * GIB, { limit: 3, mayHang }), all.slice(0, 3));
    assert.deepEqual(await fileRuns(fd, GIB, 2 * GIB, { limit: 3, mayHang }), [
      { offset: GIB, length: GIB, hole: true },
    ]);
    assert.deepEqual(await fileRuns(fd, 5, 5, { limit: 3, mayHang }), []);
  });
}

test("past the end is a hole; a bad descriptor is an error with its name", async () => {
  const past = { offset: 4096 * GIB, length: 5, hole: true };
  assert.deepEqual(await fileRuns(fd, past.offset, past.offset + 5, { limit: 3, mayHang: false }), [past]);
  await assert.rejects(fileRuns(99_999, 0, 5, { limit: 3, mayHang: false }), { code: "EBADF", syscall: "lseek" });
  await assert.rejects(fileRuns(99_999, 0, 5, { limit: 3, mayHang: true }), { code: "EBADF", syscall: "lseek" });
});
