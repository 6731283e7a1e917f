/** Stores that are not as this version left them: older, newer, damaged. */
import assert from "node:assert/strict";
import { copyFileSync, existsSync, readdirSync, readFileSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { below } from "../../test/support/draw.ts";
import { pick, rng } from "../../test/support/seed.ts";
import { aDisk, anEvent } from "../../test/support/store-conformance.ts";
import type { EventRecord, Store } from "../jobs/index.ts";
import { MIGRATIONS } from "./schema.ts";
import { SqliteStore } from "./sqlite-store.ts";
import { openStateDirectory, type StateDirectory } from "./state-directory.ts";

/** The schema of this version. */
const NOW = MIGRATIONS.length;
const CONTENT = contentLeft(NOW);
const ALL = 1000;

function fixture(version: number, name: string): string {
  return join(import.meta.dirname, `../../test/fixtures/state-${version}`, name);
}

function contentLeft(version: number): { readonly events: readonly EventRecord[] } {
  const content = JSON.parse(readFileSync(fixture(version, "content.json"), "utf8"), (key, value) =>
    key === "holdMs" && value === null ? Number.POSITIVE_INFINITY : value,
  );
  return { speedLimits: [], domains: [], deployments: [], ...content };
}

/** A state directory as a version has left it. */
function stateLeft(t: TestContext, version = NOW): StateDirectory {
  const path = temporaryDirectory(t);
  copyFileSync(fixture(version, "state.db"), join(path, "state.db"));
  const directory = openStateDirectory(path);
  t.after(() => directory[Symbol.dispose]());
  return directory;
}

async function contentOf(store: Store): Promise<object> {
  const [jobs, events] = [await store.jobs({ limit: ALL }), await store.events({ limit: ALL })];
  const [disks, exports] = [await store.disks(), await store.exports()];
  const [speedLimits, domains] = [await store.speedLimits(), await store.domains()];
  return { disks, exports, jobs, events, speedLimits, domains, deployments: await store.deployments() };
}

/** All files but the lock, which must not be opened. */
function filesOf({ path }: StateDirectory): Record<string, string> {
  const names = readdirSync(path).filter((name) => name.startsWith("state.db"));
  return Object.fromEntries(names.sort().map((name) => [name, readFileSync(join(path, name), "base64")]));
}

for (let version = 1; version <= NOW; version++) {
  test(`the state of schema ${version} is opened`, async (t) => {
    await using store = new SqliteStore(stateLeft(t, version));
    assert.deepEqual(await contentOf(store), contentLeft(version));
    assert.equal((await store.addEvent(anEvent())).id, 4);
  });
}

const NEXT_STEP = "ALTER TABLE export ADD COLUMN note TEXT; UPDATE job SET id = id";

test("an older schema is brought up to date, after a copy was made", async (t) => {
  const directory = stateLeft(t);
  const migrations = [...MIGRATIONS, NEXT_STEP];
  for (const round of [1, 2]) {
    await using store = new SqliteStore(directory, { migrations });
    assert.equal(store.notes.length, round === 1 ? 1 : 0);
    assert.deepEqual(await contentOf(store), CONTENT);
  }
  const backup = `${directory.database}.schema-${NOW}`;
  assert(existsSync(backup));
  copyFileSync(backup, directory.database);
  await using older = new SqliteStore(directory);
  assert.deepEqual(await contentOf(older), CONTENT);
});

test("a step that fails leaves the store as it was, and says where its copy is", async (t) => {
  const directory = stateLeft(t);
  const migrations = [...MIGRATIONS, NEXT_STEP, "CREATE TABLE more (id TEXT); INSERT INTO nowhere VALUES (1)"];
  const expected = {
    code: "io",
    message: new RegExp(`from schema ${NOW} to ${NOW + 2}: .*no such table.*'.*state\\.db\\.schema-${NOW}'`),
  };
  assert.throws(() => new SqliteStore(directory, { migrations }), expected);
  await using store = new SqliteStore(directory, { migrations: migrations.slice(0, -1) });
  assert.deepEqual(await contentOf(store), CONTENT);
});

test("a store of a newer version is refused and left untouched, also when it is to be rebuilt", (t) => {
  const directory = stateLeft(t);
  {
    using db = new DatabaseSync(directory.database);
    db.exec("PRAGMA user_version = 99; CREATE TABLE later (id TEXT)");
  }
  const before = filesOf(directory);
  const expected = {
    code: "unsupported",
    message: new RegExp(`'.*state\\.db' is of a newer streamdisk \\(schema 99; this one knows ${NOW}\\)`),
  };
  assert.throws(() => new SqliteStore(directory), expected);
  assert.throws(() => new SqliteStore(directory, { rebuild: true }), expected);
  assert.deepEqual(filesOf(directory), before);
});

const DAMAGES: readonly (readonly [what: string, damage: (path: string) => void, why: RegExp])[] = [
  ["is empty", (path) => truncateSync(path, 0), /not a database/],
  ["is not a database", (path) => writeFileSync(path, "hello ".repeat(1000)), /not a database/],
  ["is short", (path) => writeFileSync(path, "hello"), /not a database/],
  ["is cut in its first page", (path) => truncateSync(path, 1000), /./],
  ["is cut between pages", (path) => truncateSync(path, 8192), /./],
  ["is another program's", otherProgram, /no store of streamdisk/],
  ["has no schema", (path) => sql(path, "PRAGMA user_version = 0"), /no store of streamdisk/],
  ["lacks a table", (path) => sql(path, "DROP TABLE export"), /tables are not those of a store/],
  [
    "has a record that was changed",
    (path) => sql(path, "UPDATE disk SET record = record || ' '"),
    /record of disk '5b0e7c1a'/,
  ],
  ["has an id that was changed", (path) => sql(path, "UPDATE event SET id = 1 WHERE id = 2"), /record of event '1'/],
  ["has a log and no file", logAlone, /its file is gone/],
];

for (const [what, damage, why] of DAMAGES) {
  test(`a store that ${what} is reported by its name, and rebuilt when asked`, async (t) => {
    const directory = stateLeft(t);
    damage(directory.database);
    const before = filesOf(directory);
    assert.throws(
      () => new SqliteStore(directory),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, "invalid-store");
        assert(error.message.startsWith(`The daemon's store '${directory.database}' is damaged: `), error.message);
        assert.match(error.message, why);
        assert.match(error.message, /streamdisk daemon --rebuild-store/);
        return true;
      },
    );
    assert.deepEqual(filesOf(directory), before);

    await using store = new SqliteStore(directory, { rebuild: true });
    assert.match(store.notes.join(), /was moved to '.*state\.db\.damaged-/);
    const aside = Object.entries(filesOf(directory)).filter(([name]) => name.includes(".damaged-"));
    assert.deepEqual(
      aside.map(([, content]) => content),
      Object.values(before),
    );
    assert.deepEqual(await store.disks(), []);
    await store.putDisk(aDisk("1", "web"));
    const last = CONTENT.events.at(-1)?.id ?? 0;
    assert((await store.addEvent(anEvent())).id > last, "followers of the old store see new events");
  });
}

test("a store in order is not rebuilt", async (t) => {
  await using store = new SqliteStore(stateLeft(t), { rebuild: true });
  assert.deepEqual(store.notes, []);
  assert.deepEqual(await contentOf(store), CONTENT);
});

test("a flipped byte is reported, or does no harm", async (t) => {
  const directory = stateLeft(t);
  const whole = readFileSync(directory.database);
  const random = rng("flipped bytes of a store");
  const counts = { reported: 0, harmless: 0 };
  for (let round = 0; round < pick(150, 3000); round++) {
    const bytes = Buffer.from(whole);
    const [at, mask] = [below(random, bytes.length), 1 + below(random, 255)];
    bytes.writeUInt8(bytes.readUInt8(at) ^ mask, at);
    for (const end of ["-wal", "-journal"]) assert(!existsSync(directory.database + end));
    writeFileSync(directory.database, bytes);
    const outcome = await attempt(directory);
    const where = `byte ${at} with ${mask}: ${outcome instanceof Error ? outcome.stack : ""}`;
    if (outcome instanceof Error) {
      // The version in the header may have become a greater one.
      const code = (outcome as { code?: unknown }).code;
      assert(code === "invalid-store" || (code === "unsupported" && at >= 60 && at < 64), where);
      counts.reported++;
    } else {
      assert.deepEqual(outcome, CONTENT, where);
      counts.harmless++;
    }
  }
  t.diagnostic(JSON.stringify(counts));
  assert(counts.reported > 0 && counts.harmless > 0);
});

async function attempt(directory: StateDirectory): Promise<unknown> {
  try {
    await using store = new SqliteStore(directory);
    const content = await contentOf(store);
    await store.putDisk(aDisk("1", "web"));
    assert.equal((await store.addEvent(anEvent())).id > 3, true);
    return content;
  } catch (error) {
    return error;
  }
}

function sql(path: string, text: string): void {
  using db = new DatabaseSync(path);
  db.exec(text);
}

function otherProgram(path: string): void {
  truncateSync(path, 0);
  sql(path, "CREATE TABLE song (name TEXT)");
}

function logAlone(path: string): void {
  writeFileSync(`${path}-wal`, readFileSync(path).subarray(0, 100));
  unlinkSync(path);
}
