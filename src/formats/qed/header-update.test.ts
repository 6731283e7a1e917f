import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import type { BackingReference } from "../../block/index.ts";
import { createQed } from "./create.ts";
import { isMarked, QED_LOG_BIT } from "./header.ts";
import { readQedHeader, writeQedHeader } from "./header-file.ts";
import { type QedHeaderUpdate, rewriteHeader, setBacking, setImageSize, setMark } from "./header-update.ts";

const OPTIONS = { cluster_size: "4K", table_size: "2" };
const name = (length: number, letter = "a"): BackingReference => ({ reference: letter.repeat(length), format: "raw" });

async function image(backing?: BackingReference): Promise<MemoryNode> {
  const file = new MemoryNode(0, { name: "x.qed" });
  await createQed(file, { size: 8192, options: OPTIONS, ...(backing && { backing }) });
  return file;
}

/** What a reader finds after each of an update's sectors reached the disk, in order. */
async function seenOnTheWay(file: MemoryNode, update: QedHeaderUpdate): Promise<(BackingReference | undefined)[]> {
  const seen: (BackingReference | undefined)[] = [];
  for (const { offset, bytes } of update.writes) {
    for (let at = 0; at < bytes.length; ) {
      const next = Math.min(bytes.length, at + 512 - ((offset + at) % 512));
      await file.write(offset + at, bytes.subarray(at, next));
      seen.push((await readQedHeader(file)).backing);
      at = next;
    }
  }
  return seen;
}

test("the mark and the size change in one write", async () => {
  const file = await image(name(10));
  const { header } = await readQedHeader(file);
  for (const update of [setMark(header, true), setImageSize(header, 512, "x"), setBacking(header, undefined, "x")]) {
    assert.equal(update.writes.length, 1);
    assert.equal(update.writes[0]?.bytes.length, 64);
  }
  await writeQedHeader(file, setMark({ ...header, autoclearFeatures: 3n }, true));
  const marked = (await readQedHeader(file)).header;
  assert.deepEqual(marked, { ...header, needCheck: true, autoclearFeatures: QED_LOG_BIT });
  assert.ok(isMarked(marked));
  await writeQedHeader(file, rewriteHeader({ ...marked, autoclearFeatures: 0n }));
  await writeQedHeader(file, setImageSize((await readQedHeader(file)).header, 2 ** 31, "x"));
  const { header: last, backing } = await readQedHeader(file);
  assert.deepEqual(last, { ...header, needCheck: true, imageSize: 2 ** 31 });
  assert.deepEqual(backing, name(10));
});

test("a size that cannot be is refused", async () => {
  const { header } = await readQedHeader(await image());
  for (const size of [-512, 513, 0.5, 2 ** 60, Number.NaN, 2 ** 32 + 512]) {
    assert.throws(
      () => setImageSize(header, size, "x.qed"),
      { code: "invalid-argument", message: /x\.qed/ },
      String(size),
    );
  }
  assert.equal(setImageSize(header, 2 ** 32, "x.qed").header.imageSize, 2 ** 32);
});

test("at every sector of a change the reference is the old one or the new one, whole", async () => {
  const lengths = [0, 1, 448, 449, 500, 1023];
  for (const before of lengths) {
    for (const after of lengths) {
      const from = before === 0 ? undefined : name(before, "a");
      const to = after === 0 ? undefined : { reference: "b".repeat(after), format: undefined };
      const file = await image(from);
      const { header, backing } = await readQedHeader(file);
      assert.deepEqual(backing, from);
      const seen = await seenOnTheWay(file, setBacking(header, to, "x"));
      const last = seen.pop();
      assert.deepEqual(last, to, `${before} to ${after}`);
      for (const one of seen) assert.deepEqual(one, from, `${before} to ${after}`);
    }
  }
});

test("two long names find room in turn", async () => {
  const file = await image(name(1023, "a"));
  for (const letter of "bcdefg") {
    await writeQedHeader(file, setBacking((await readQedHeader(file)).header, name(1023, letter), "x"));
    assert.deepEqual((await readQedHeader(file)).backing, name(1023, letter));
  }
  await writeQedHeader(file, setBacking((await readQedHeader(file)).header, undefined, "x"));
  assert.deepEqual((await readQedHeader(file)).header.backingName, undefined);
});

test("a long name of another program's may leave no room, a short new one always fits", async () => {
  const file = await image();
  const { header } = await readQedHeader(file);
  const full = { ...header, backingName: { offset: 64, size: 4032 } };
  assert.throws(() => setBacking(full, name(1023), "x.qed"), {
    code: "invalid-argument",
    message: /no room.*at most 448/,
  });
  assert.equal(setBacking(full, name(448), "x.qed").header.backingName?.offset, 64);
});

test("a name that cannot be stored is refused", async () => {
  const { header } = await readQedHeader(await image());
  for (const reference of ["", "a\0b", "a".repeat(1024), "ä".repeat(512)]) {
    assert.throws(() => setBacking(header, { reference, format: "raw" }, "x.qed"), { code: "invalid-argument" });
  }
  const strange = { ...header, compatFeatures: 2n };
  assert.throws(() => setBacking(strange, name(1), "x.qed"), { code: "unsupported", message: /0x2/ });
  assert.equal(setBacking(strange, undefined, "x.qed").header.compatFeatures, 2n);
});
