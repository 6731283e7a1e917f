/** Stores that are not as this version left them: older, newer, damaged. */
import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { below } from "../../test/support/draw.ts";
import { pick, rng } from "../../test/support/seed.ts";
import { aDisk, anEvent } from "../../test/support/store-conformance.ts";
import type { DiskRecord, EventRecord, ExportRecord, JobRecord, Store } from "../jobs/index.ts";
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

interface Content {
  readonly disks: readonly DiskRecord[];
  readonly exports: readonly ExportRecord[];
  readonly jobs: readonly JobRecord[];
  readonly events: readonly EventRecord[];
}

function contentLeft(version: number): Content {
  const content = JSON.parse(readFileSync(fixture(version, "content.json"), "utf8"), (key, value) =>
    key === "holdMs" && value === null ? Number.POSITIVE_INFINITY : value,
  );
  return { speedLimits: [], domains: [], deployments: [], ...content };
}

/** A state directory as a version has left it. */
function stateLeft(t: TestContext, version = NOW, path = temporaryDirectory(t)): StateDirectory {
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

/** The copy of a damaged store. */
function asideOf(directory: StateDirectory): Record<string, string> {
  const aside = Object.entries(filesOf(directory)).filter(([name]) => name.includes(".damaged-"));
  return Object.fromEntries(aside.map(([name, content]) => [join(directory.path, name), content]));
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
    assert.match(saidBy(store), /a copy as it was is '.*state\.db\.damaged-/);
    assert(store.rebuilt);
    assert.deepEqual(Object.values(asideOf(directory)), Object.values(before));
    const kept = await contentOf(store);
    assertPartOf(kept, CONTENT, what);
    if (what === "has no schema") assert.deepEqual(kept, CONTENT);
    if (what === "lacks a table") assert.deepEqual(kept, { ...CONTENT, exports: [] });
    await store.putDisk(aDisk("1", "web"));
    const last = CONTENT.events.at(-1)?.id ?? 0;
    assert((await store.addEvent(anEvent())).id > last, "followers of the old store see new events");
  });
}

const LOSSES: readonly (readonly [what: string, damage: string, lost: RegExp, kept: (content: Content) => object])[] = [
  [
    "a disk",
    "UPDATE disk SET record = replace(record, 'vm1-root', 'vm2-root') WHERE id = '5b0e7c1a'",
    /record of the disk 'vm2-root' was damaged/,
    ({ disks, ...rest }) => ({ ...rest, disks: disks.filter(({ id }) => id !== "5b0e7c1a") }),
  ],
  ["an export", "UPDATE export SET sum = sum + 1", /record of the export 'debian'/, (c) => ({ ...c, exports: [] })],
  [
    "a job whose number is none",
    "UPDATE job SET sum = -9007199254740993 WHERE id = 'j3'",
    /record of the stream 'j3'/,
    ({ jobs, ...rest }) => ({ ...rest, jobs: jobs.filter(({ id }) => id !== "j3") }),
  ],
  [
    "an event whose id was changed",
    "UPDATE event SET id = 7 WHERE id = 3",
    /record of the event '7'/,
    ({ events, ...rest }) => ({ ...rest, events: events.filter(({ id }) => id !== 3) }),
  ],
];

for (const [what, damage, lost, kept] of LOSSES) {
  test(`${what} that is damaged in a store is lost alone, and told of by its name`, async (t) => {
    const directory = stateLeft(t);
    sql(directory.database, damage);
    const before = filesOf(directory);
    {
      await using store = new SqliteStore(directory);
      assert.match(saidBy(store), lost);
      assert(!store.rebuilt);
      assert.deepEqual(await contentOf(store), kept(CONTENT));
      assert.deepEqual(Object.values(asideOf(directory)), Object.values(before));
      await store.putDisk(aDisk("1", "web"));
      assert((await store.addEvent(anEvent())).id > 3);
    }
    await using again = new SqliteStore(directory);
    assert.deepEqual(again.damage, []);
  });
}

test("an older store with a damaged record is brought up to date without it", async (t) => {
  const directory = stateLeft(t, 1);
  sql(directory.database, "UPDATE export SET sum = sum + 1");
  await using store = new SqliteStore(directory);
  assert.match(saidBy(store), /record of the export 'debian'/);
  assert.deepEqual(await contentOf(store), { ...contentLeft(1), exports: [] });
});

test("of many that are lost the first are named, and the disks before all", async (t) => {
  const directory = stateLeft(t);
  {
    await using store = new SqliteStore(directory);
    for (let count = 0; count < 30; count++) await store.addEvent(anEvent());
  }
  sql(directory.database, "UPDATE event SET sum = sum + 1; UPDATE disk SET sum = sum + 1");
  await using store = new SqliteStore(directory);
  const [, first, second, ...rest] = store.damage.map(({ message }) => message);
  assert.match(`${first} ${second}`, /disk 'vm1-root' .* disk 'db' /);
  assert.equal(rest.length, 19);
  assert.match(rest.at(-1) ?? "", /^14 more records/);
});

test("a store in order is not rebuilt", async (t) => {
  await using store = new SqliteStore(stateLeft(t), { rebuild: true });
  assert.deepEqual(store.notes, []);
  assert.deepEqual(await contentOf(store), CONTENT);
});

test("a flipped byte costs what it is in, which is told, and nothing else is changed by it", async (t) => {
  // In memory: thousands of stores are flushed.
  const memory = mkdtempSync("/dev/shm/streamdisk-test-");
  t.after(() => rmSync(memory, { recursive: true, force: true }));
  const directory = stateLeft(t, NOW, memory);
  const whole = readFileSync(directory.database);
  const random = rng("flipped bytes of a store");
  const counts = { reported: 0, lost: 0, harmless: 0 };
  // Most of the file is room.
  const used = [...whole.keys()].filter((at) => whole[at] !== 0);
  const rounds = pick(120, used.length);
  for (let round = 0; round < rounds; round++) {
    const at = used[rounds === used.length ? round : below(random, used.length)] ?? 0;
    const bytes = Buffer.from(whole);
    const mask = 1 + below(random, 255);
    bytes.writeUInt8(bytes.readUInt8(at) ^ mask, at);
    for (const name of Object.keys(filesOf(directory))) unlinkSync(join(directory.path, name));
    writeFileSync(directory.database, bytes);
    const outcome = await attempt(directory);
    const where = `byte ${at} with ${mask}: ${outcome instanceof Error ? outcome.stack : ""}`;
    if (outcome instanceof Error) {
      // The version in the header may have become a greater one.
      const code = (outcome as { code?: unknown }).code;
      if (code === "unsupported" && at >= 60 && at < 64) continue;
      assert.equal(code, "invalid-store", where);
      const rebuilt = await attempt(directory, true);
      if (rebuilt instanceof Error) assert.fail(`${where}: ${rebuilt.stack}`);
      assertPartOf(rebuilt.content, CONTENT, where);
      counts.reported++;
    } else if (outcome.said === "") {
      assert.deepEqual(outcome.content, CONTENT, where);
      counts.harmless++;
    } else {
      assertPartOf(outcome.content, CONTENT, where);
      assert.match(outcome.said, /was damaged: what could be read/, where);
      assert(readFileSync(Object.keys(asideOf(directory))[0] ?? "").equals(bytes), where);
      counts.lost++;
    }
  }
  t.diagnostic(JSON.stringify(counts));
  assert(counts.reported > 0 && counts.lost > 0);
});

async function attempt(directory: StateDirectory, rebuild = false): Promise<{ content: object; said: string } | Error> {
  try {
    await using store = new SqliteStore(directory, { rebuild });
    const content = await contentOf(store);
    await store.putDisk(aDisk("1", "web"));
    assert.equal((await store.addEvent(anEvent())).id > 2, true);
    return { content, said: saidBy(store) };
  } catch (error) {
    return error as Error;
  }
}

test("a log that is damaged in the middle is told of; one that is torn at its end, or older, is not", async (t) => {
  const killed = stateLeft(t);
  const files = ["", "-wal"];
  await using store = new SqliteStore(killed);
  for (let count = 0; count < 20; count++) await store.addEvent(anEvent());
  const [file, log] = files.map((end) => readFileSync(killed.database + end));
  const frame = 24 + 4096;
  const frames = Math.floor(((log?.length ?? 0) - 32) / frame);
  assert(frames >= 20, "the log is to be long");
  const outcome = async (change: (log: Buffer) => Buffer) => {
    const directory = openStateDirectory(temporaryDirectory(t));
    t.after(() => directory[Symbol.dispose]());
    const left = change(Buffer.from(log ?? []));
    writeFileSync(directory.database, file ?? "");
    writeFileSync(`${directory.database}-wal`, left);
    await using again = new SqliteStore(directory);
    const events = await again.events({ limit: ALL });
    const copies = Object.keys(asideOf(directory)).map((path) => readFileSync(path));
    assert(copies.every((copy) => copy.equals(left) || copy.equals(file ?? left)));
    return { said: saidBy(again), events: events.length, copies: copies.length };
  };
  const flipped = (at: number) => (bytes: Buffer) => {
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    return bytes;
  };
  const whole = { said: "", events: 22, copies: 0 };
  assert.deepEqual(await outcome((bytes) => bytes), whole);
  assert.deepEqual(await outcome((bytes) => Buffer.concat([bytes, Buffer.alloc(frame * 3)])), whole);
  const { said } = await outcome((bytes) => bytes.subarray(0, bytes.length - 100));
  assert.equal(said, "", "torn");
  // In a page, in a frame's own sum, in its number, in the header.
  for (const at of [32 + 5 * frame + 1000, 32 + 5 * frame + 17, 32 + 5 * frame + 9, 18, 9, 1]) {
    const lost = await outcome(flipped(at));
    assert.match(lost.said, /^The log of the store was damaged: .*, \d+ changes at least; a copy/, `byte ${at}`);
    assert.deepEqual([lost.copies, lost.events < 22], [2, true], `byte ${at}`);
  }
});

function saidBy({ damage }: SqliteStore): string {
  return damage.map(({ message }) => message).join("\n");
}

/** Every record is one that was there, in the order in which they were. */
function assertPartOf(part: object, whole: object, where: string): void {
  for (const [kind, records] of Object.entries(part) as [string, unknown[]][]) {
    const there = (whole as Record<string, unknown[]>)[kind] ?? [];
    const kept = there.filter((record) => records.some((one) => isDeepStrictEqual(one, record)));
    assert.deepEqual(records, kept, `${where}: ${kind}`);
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
