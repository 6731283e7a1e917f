import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  linkSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openFile } from "./file.ts";
import { watchDeletion } from "./file-watch.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-watch-"));
after(() => rmSync(directory, { recursive: true }));

let files = 0;
function made(content = "base"): string {
  const path = join(directory, `f${files++}`);
  writeFileSync(path, content);
  return path;
}

/** A file that is watched, and its end. */
function watched(path = made()) {
  const fd = openSync(path, "r");
  const { promise: deleted, resolve } = Promise.withResolvers<void>();
  const watch = watchDeletion(fd, resolve);
  assert(watch !== undefined);
  return { path, fd, watch, deleted };
}

test("an open file that is deleted is told of, and can still be read", async () => {
  const { path, fd, deleted } = watched();
  unlinkSync(path);
  await deleted;
  const bytes = Buffer.alloc(4);
  assert.equal(readSync(fd, bytes, 0, 4, 0), 4);
  assert.equal(bytes.toString(), "base");
  closeSync(fd);
});

test("so is one that another is renamed over, and one that is renamed first", async () => {
  const over = watched();
  renameSync(made("other"), over.path);
  await over.deleted;
  closeSync(over.fd);
  const moved = watched();
  renameSync(moved.path, `${moved.path}.old`);
  writeFileSync(moved.path, "other");
  unlinkSync(`${moved.path}.old`);
  await moved.deleted;
  closeSync(moved.fd);
});

test("what was deleted before it was watched is told too", async () => {
  const path = made();
  const fd = openSync(path, "r");
  unlinkSync(path);
  await new Promise<void>((resolve) => watchDeletion(fd, resolve));
  closeSync(fd);
});

test("as long as it has a name nothing is told; of two who watch both are told then", async () => {
  const path = made();
  let told = 0;
  await using file = await openFile(path, { readOnly: true });
  file.onDeleted(() => told++);
  const { fd, deleted } = watched(path);
  const second = `${path}.second`;
  linkSync(path, second);
  writeFileSync(path, "base, longer");
  unlinkSync(path);
  // Events come in order: that of another file, which is later, has come.
  const other = watched();
  unlinkSync(other.path);
  await other.deleted;
  assert.equal(told, 0);
  unlinkSync(second);
  await deleted;
  await new Promise(setImmediate);
  assert.equal(told, 1);
  closeSync(other.fd);
  closeSync(fd);
});

test("who has closed hears nothing", async () => {
  const path = made();
  const file = await openFile(path, { readOnly: true });
  file.onDeleted(() => assert.fail("told"));
  await file.close();
  const { deleted, fd } = watched(path);
  unlinkSync(path);
  await deleted;
  closeSync(fd);
});

test("a descriptor that can't be watched is left alone", () => {
  assert.equal(
    watchDeletion(1_000_000, () => assert.fail("told")),
    undefined,
  );
});

test("no process stays alive for it", () => {
  const path = made();
  const source = JSON.stringify(join(import.meta.dirname, "file.ts"));
  const program = `
    const { openFile } = await import(${source});
    const file = await openFile(${JSON.stringify(path)}, { readOnly: true });
    file.onDeleted(() => {});
    process.stdout.write("watched");`;
  const args = ["--input-type=module", "-e", program];
  assert.equal(execFileSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 }), "watched");
  assert.equal(readFileSync(path, "utf8"), "base");
});
