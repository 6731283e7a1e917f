import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { aDisk, aJob, anEvent, anExport, testStore } from "../../test/support/store-conformance.ts";
import { SqliteStore } from "./sqlite-store.ts";
import { openStateDirectory } from "./state-directory.ts";

testStore("in SQLite", async (t) => {
  const directory = openStateDirectory(temporaryDirectory(t));
  t.after(() => directory[Symbol.dispose]());
  return new SqliteStore(directory);
});

test("what was put is there when the store is opened again", async (t) => {
  using directory = openStateDirectory(temporaryDirectory(t));
  const [disk, job] = [aDisk("1", "web"), aJob("j", "1")];
  let id = 0;
  {
    await using store = new SqliteStore(directory);
    await store.putDisk(disk);
    await store.addExport(anExport("base"));
    await store.putJob(aJob("older", "1"));
    await store.putJob(job);
    await store.addEvent(anEvent());
    ({ id } = await store.addEvent(anEvent()));
    await store.prune({ events: 0, jobs: 0 });
    await assert.rejects(store.putDisk(aDisk("2", "web")), { code: "exists" });
  }
  await using store = new SqliteStore(directory);
  assert.deepEqual(store.notes, []);
  assert.deepEqual(await store.disks(), [disk]);
  assert.deepEqual(await store.exports(), [anExport("base")]);
  assert.deepEqual(await store.jobs({ limit: 1 }), [job]);
  assert.equal(await store.lastEvent(), id);
  assert.equal((await store.addEvent(anEvent())).id, id + 1);
});

test("nobody else may read the store: sources are named with what gives access to them", async (t) => {
  using directory = openStateDirectory(temporaryDirectory(t));
  await using store = new SqliteStore(directory);
  await store.putDisk(aDisk("1", "web"));
  for (const end of ["", "-wal"]) assert.equal(statSync(directory.database + end).mode & 0o077, 0, end);
});
