import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { wrapSystemError } from "../errors/index.ts";
import { type FileNode, openFile } from "../sources/index.ts";
import { SourceMemory } from "./source-memory.ts";
import { SourcesBelow } from "./sources-below.ts";

const SIZE = 65536;
const LOST = { code: "source-lost" };
const buffer = () => new Uint8Array(512);

/** A disk's sources: one file. */
async function disk(t: TestContext, clock = new ManualClock()) {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-below-"));
  const path = join(directory, "base.raw");
  writeFileSync(path, Buffer.alloc(SIZE, 7));
  const file = await openFile(path, { readOnly: true });
  const states: string[] = [];
  let told = (): void => {};
  const sources = new SourcesBelow(
    () => {
      states.push(sources.state(0).state);
      told();
    },
    new SourceMemory([], () => {}),
    clock,
  );
  const open = (change: (file: FileNode) => void = () => {}) => {
    change(file);
    const node = sources.wrap(file, path);
    t.after(async () => {
      const closing = node.close();
      await clock.advance(60_000);
      await closing;
      rmSync(directory, { recursive: true });
    });
    return node;
  };
  const next = () =>
    new Promise<void>((resolve) => {
      told = resolve;
    });
  return { path, clock, file, states, sources, open, next };
}

test("a deleted file is told of at once, and read on; being lost counts for more while it lasts", async (t) => {
  const { path, clock, file, states, sources, open, next } = await disk(t);
  const node = open();
  const { since, ...found } = sources.state(0);
  assert.deepEqual(found, { state: "ok", held: 0 });
  assert(since !== undefined && since <= Date.now());
  const told = next();
  unlinkSync(path);
  await told;
  const { state, message, held } = sources.state(3);
  assert.deepEqual([state, held], ["deleted", 3]);
  assert.match(message ?? "", /^'\S+base\.raw' was deleted or replaced .* stream the disk to the end/);
  await node.read(0, buffer());

  const read = file.read;
  file.read = () => Promise.reject(systemError("ESTALE"));
  await assert.rejects(node.read(0, buffer()), LOST);
  assert.equal(sources.state(0).state, "lost");
  file.read = read;
  const back = next();
  await clock.advance(100);
  await back;
  assert.deepEqual(states, ["deleted", "lost", "deleted"]);
});

test("so is one that another is renamed over, and its bytes are what is read", async (t) => {
  const { path, open, next, sources } = await disk(t);
  const node = open();
  writeFileSync(`${path}.new`, Buffer.alloc(SIZE, 8));
  const told = next();
  renameSync(`${path}.new`, path);
  await told;
  assert.equal(sources.state(0).state, "deleted");
  const bytes = buffer();
  await node.read(0, bytes);
  assert(bytes.every((byte) => byte === 7));
});

test("a file system that may hang is not asked what became of a file", async (t) => {
  const { path, open, states, file } = await disk(t);
  await using other = await openFile(path, { readOnly: true });
  open((node) => Object.assign(node, { remote: "NFS" }));
  assert.equal(file.remote, "NFS");
  const deleted = new Promise<void>((resolve) => other.onDeleted(resolve));
  unlinkSync(path);
  await deleted;
  assert.deepEqual(states, []);
});

for (const errno of ["EIO", "ESTALE", "ENOTCONN", "EHOSTDOWN"]) {
  test(`a local file that answers ${errno} is lost, and back when it answers again`, async (t) => {
    const { clock, file, states, open, next } = await disk(t);
    const node = open();
    const { read } = file;
    file.read = () => Promise.reject(systemError(errno));
    await assert.rejects(node.read(0, buffer()), LOST);
    assert.deepEqual(states, ["lost"]);
    file.read = read;
    const back = next();
    await clock.advance(100);
    await back;
    assert.deepEqual(states, ["lost", "ok"]);
    await node.read(0, buffer());
  });
}

test("a local file that was cut short is not what it was", async (t) => {
  const { path, open, sources } = await disk(t);
  const node = open();
  truncateSync(path, SIZE / 2);
  await assert.rejects(node.read(SIZE - 512, buffer()), { code: "changed", message: /cut short/ });
  assert.equal(sources.state(0).state, "changed");
});

test("a file that gives no answer at all is lost in time, has two threads of the pool, and another disk does not notice", async (t) => {
  const clock = new ManualClock();
  const [hung, well] = [await disk(t, clock), await disk(t, clock)];
  let underWay = 0;
  const stuck = hung.open((file) => {
    Object.assign(file, { remote: "NFS" });
    file.read = () => {
      underWay++;
      return new Promise(() => {});
    };
    file.extents = () => file.read(0, buffer()) as Promise<never>;
  });
  const node = well.open();
  const reads = Array.from({ length: 20 }, (_, i) => assert.rejects(stuck.read(i * 512, buffer()), LOST));
  reads.push(assert.rejects(stuck.extents(0, SIZE), LOST));
  await clock.advance(29_999);
  await node.read(0, buffer());
  assert.deepEqual([hung.states, well.states], [[], []]);
  await clock.advance(1);
  await Promise.all(reads);
  assert.deepEqual([hung.states, well.states], [["lost"], []]);
  assert.match(hung.sources.state(0).message ?? "", /did not answer within 30000 ms/);
  // From now on only the probe asks, and it waits for a slot like all.
  await assert.rejects(stuck.read(0, buffer()), LOST);
  await clock.advance(200_000);
  assert.equal(underWay, 2);
  await node.read(512, buffer());
  assert.equal(well.sources.state(0).state, "ok");
});

/** What node:fs's failures become. */
function systemError(errno: string): Error {
  return wrapSystemError(Object.assign(new Error(`${errno}: read`), { code: errno }), "base.raw", "read");
}
