import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";
import type { FileIdentity } from "./file-system.ts";
import { FileMappingLog, openMappingLog } from "./mapping-log.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-log-"));
const place = join(directory, "log");
const identity: FileIdentity = { dev: 65024n, ino: 12345678901234n, birthtimeNs: 1795375617309813744n };
const before = process.env.STREAMDISK_LOG_DIR;

beforeEach(() => {
  mkdirSync(place, { mode: 0o700 });
  process.env.STREAMDISK_LOG_DIR = place;
});
afterEach(() => rmSync(place, { recursive: true }));
after(() => {
  if (before === undefined) Reflect.deleteProperty(process.env, "STREAMDISK_LOG_DIR");
  else process.env.STREAMDISK_LOG_DIR = before;
  rmSync(directory, { recursive: true });
});

function open(options: { readOnly?: boolean; identity?: FileIdentity } = {}): FileMappingLog {
  const log = openMappingLog(options.identity ?? identity, { readOnly: options.readOnly ?? false });
  assert.ok(log);
  return log;
}

const entry = (value: number, bytes = 8) => new Uint8Array(bytes).fill(value);
const clusters = (log: FileMappingLog) => log.replay().map((record) => record.cluster);
const files = () => readdirSync(place).sort();

function onlyFile(): string {
  assert.equal(files().length, 1);
  return join(place, files()[0] ?? "");
}

test("records come back to the next process, in order, with their bytes", () => {
  for (const bytes of [8, 16]) {
    const log = open();
    log.append(5, entry(1, bytes));
    log.append(2 ** 52, entry(2, bytes));
    log.append(5, entry(3, bytes));
    assert.deepEqual(
      open()
        .replay()
        .map(({ cluster, entry }) => [cluster, [...entry]]),
      [
        [5, [...entry(1, bytes)]],
        [2 ** 52, [...entry(2, bytes)]],
        [5, [...entry(3, bytes)]],
      ],
    );
    assert.equal(statSync(onlyFile()).mode & 0o777, 0o600);
    log.remove();
  }
});

test("nothing is there before the first record, and nothing after remove", () => {
  const log = open();
  log.rotate();
  log.dropOld();
  log.remove();
  assert.deepEqual(files(), []);
  log.append(1, entry(1));
  log.rotate();
  log.append(2, entry(2));
  log.remove();
  assert.deepEqual(files(), []);
  log.append(3, entry(3));
  assert.deepEqual(clusters(open()), [3]);
});

test("a checkpoint leaves what came while it was under way", () => {
  const log = open();
  log.append(1, entry(1));
  log.rotate();
  log.append(2, entry(2));
  assert.deepEqual(clusters(open()), [1, 2], "killed before the checkpoint ended");
  log.dropOld();
  assert.deepEqual(clusters(open()), [2], "killed after it");
});

test("a checkpoint that failed keeps everything, until one succeeds", () => {
  const log = open();
  for (const cluster of [1, 2, 3]) {
    log.append(cluster, entry(cluster));
    log.rotate();
  }
  log.append(4, entry(4));
  assert.deepEqual(clusters(open()), [1, 2, 3, 4]);
  log.dropOld();
  assert.deepEqual(clusters(open()), [4]);
});

test("what a dead process left is old to the next one, however it lay", () => {
  for (const rotations of [0, 1, 2]) {
    const dead = open();
    for (let index = 0; index <= rotations; index++) {
      if (index > 0) dead.rotate();
      dead.append(index, entry(index));
    }
    const left = Array.from({ length: rotations + 1 }, (_, index) => index);
    const log = open();
    assert.deepEqual(clusters(log), left);
    log.append(77, entry(7));
    assert.deepEqual(clusters(open()), [...left, 77], "killed before the replay was durable");
    log.rotate();
    log.append(78, entry(7));
    log.dropOld();
    assert.deepEqual(clusters(open()), [78]);
    log.remove();
    assert.deepEqual(files(), []);
  }
});

test("generations keep their order past nine", () => {
  const log = open();
  for (let index = 0; index < 12; index++) {
    log.append(index, entry(1));
    log.rotate();
  }
  assert.deepEqual(
    clusters(open()),
    Array.from({ length: 12 }, (_, index) => index),
  );
});

test("a torn tail ends the replay at the last whole record", () => {
  const log = open();
  for (let index = 0; index < 5; index++) log.append(index, entry(index));
  const path = onlyFile();
  const whole = readFileSync(path);
  for (let size = whole.length; size >= 0; size--) {
    truncateSync(path, size);
    const expected = size < 64 ? [] : Array.from({ length: Math.floor((size - 64) / 20) }, (_, index) => index);
    assert.deepEqual(clusters(open({ readOnly: true })), expected, `${size} bytes`);
  }
});

test("a changed byte ends the replay before it, wherever it is", () => {
  const log = open();
  for (let index = 0; index < 3; index++) log.append(index, entry(index));
  const path = onlyFile();
  const whole = readFileSync(path);
  for (let at = 0; at < whole.length; at++) {
    const damaged = Buffer.from(whole);
    damaged[at] = (damaged[at] ?? 0) ^ 0x10;
    writeFileSync(path, damaged);
    const expected = at < 64 ? [] : [0, 1, 2].slice(0, Math.floor((at - 64) / 20));
    assert.deepEqual(clusters(open({ readOnly: true })), expected, `byte ${at}`);
  }
});

test("a record in another's place is no record", () => {
  const log = open();
  log.append(1, entry(1));
  log.append(1, entry(1));
  const path = onlyFile();
  const whole = readFileSync(path);
  assert.notDeepEqual(whole.subarray(64, 84), whole.subarray(84, 104));
  appendFileSync(path, whole.subarray(64, 84));
  assert.deepEqual(clusters(open()), [1, 1]);
});

test("a log of another boot, or another image in its place, is dropped", () => {
  const log = open();
  log.append(1, entry(1));
  const path = onlyFile();
  const foreign = new FileMappingLog({ path: place, bootId: "00".repeat(16), own: false }, identity, false);
  assert.deepEqual(clusters(foreign), []);
  assert.deepEqual(files(), []);

  const other = { ...identity, birthtimeNs: identity.birthtimeNs + 1n };
  open({ identity: other }).append(2, entry(2));
  assert.deepEqual(clusters(open()), [], "another image's log is another log");
  renameSync(onlyFile(), path);
  assert.deepEqual(clusters(open({ readOnly: true })), []);
  assert.ok(existsSync(path), "a reader removes nothing");
  assert.deepEqual(clusters(open()), []);
  assert.deepEqual(files(), []);
});

test("a reader of a live log sees what is there and changes nothing", () => {
  const log = open();
  log.append(1, entry(1));
  log.rotate();
  log.append(2, entry(2));
  const reader = open({ readOnly: true });
  log.dropOld();
  assert.deepEqual(clusters(reader), [2], "a generation that went meanwhile");
  reader.dropOld();
  reader.remove();
  assert.throws(() => reader.append(3, entry(3)), /read-only/);
  log.append(4, entry(4));
  assert.deepEqual(clusters(open()), [2, 4]);
});

test("a link in the log's place is not followed", () => {
  const log = open();
  log.append(1, entry(1));
  const path = onlyFile();
  const target = join(directory, "target");
  renameSync(path, target);
  symlinkSync(target, path);
  assert.deepEqual(clusters(open()), []);
  assert.ok(existsSync(target));
  writeFileSync(target, "precious");
  symlinkSync(target, path);
  const next = new FileMappingLog(
    { path: place, bootId: "00".repeat(16), own: false },
    { ...identity, ino: 9n },
    false,
  );
  symlinkSync(target, path.replace(identity.ino.toString(16), "9"));
  assert.throws(() => next.append(1, entry(1)), { code: "exists" });
  assert.equal(readFileSync(target, "utf8"), "precious");
});

test("a directory that others can write to, or that is none, is not used", () => {
  chmodSync(place, 0o777);
  assert.equal(openMappingLog(identity, { readOnly: false }), undefined);
  chmodSync(place, 0o700);
  const link = join(directory, "link");
  symlinkSync(place, link);
  for (const path of [link, join(directory, "nowhere"), "/dev/null"]) {
    process.env.STREAMDISK_LOG_DIR = path;
    assert.equal(openMappingLog(identity, { readOnly: false }), undefined, path);
  }
});

test("a full log says so and holds what it has", () => {
  const log = open();
  log.append(0, entry(1));
  truncateSync(onlyFile(), 2 ** 40);
  assert.deepEqual(clusters(open({ readOnly: true })), [0], "what is behind the end is not read");
  const room = Math.floor((8 * 1024 * 1024 - 64) / 20);
  for (let index = 1; index < room; index++) log.append(index, entry(1));
  assert.throws(() => log.append(room, entry(1)), { code: "no-space", message: /is full/ });
  const reader = open({ readOnly: true });
  assert.equal(reader.replay().length, room);
  log.rotate();
  log.append(room, entry(1));
});

test("without a word it lies on tmpfs, and takes its directory away with it", () => {
  Reflect.deleteProperty(process.env, "STREAMDISK_LOG_DIR");
  const mine = `/dev/shm/streamdisk-${process.getuid?.()}`;
  const own = { ...identity, birthtimeNs: BigInt(process.pid) };
  const log = open({ identity: own });
  log.append(1, entry(1));
  const name = readdirSync(mine).find((file) => file.endsWith(`-${process.pid.toString(16)}-1`));
  assert.ok(name);
  assert.equal(statSync(mine).mode & 0o777, 0o700);
  log.remove();
  assert.ok(!existsSync(join(mine, name)));
});

test("a process that is killed while it appends loses nothing that it was told", async () => {
  const program = `
    import { writeSync } from "node:fs";
    import { openMappingLog } from ${JSON.stringify(join(import.meta.dirname, "mapping-log.ts"))};
    const log = openMappingLog({ dev: 1n, ino: 2n, birthtimeNs: 3n }, { readOnly: false });
    const entry = new Uint8Array(8);
    const said = Buffer.alloc(4);
    for (let index = 0; ; index++) {
      entry.fill(index % 251);
      log.append(index, entry);
      if (index % 97 === 96) { log.rotate(); }
      said.writeUInt32LE(index);
      writeSync(1, said);
    }`;
  const own = { dev: 1n, ino: 2n, birthtimeNs: 3n };
  for (const acknowledgements of [1, 500]) {
    const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const said: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of child.stdout) {
      said.push(chunk);
      bytes += chunk.length;
      if (bytes >= acknowledgements * 4) child.kill("SIGKILL");
    }
    const all = Buffer.concat(said);
    const acknowledged = all.readUInt32LE(Math.floor(all.length / 4) * 4 - 4);
    const log = open({ identity: own });
    const records = log.replay();
    assert.ok(records.length > acknowledged, `${acknowledged} were acknowledged, ${records.length} are there`);
    for (const [index, { cluster, entry }] of records.entries()) {
      assert.equal(cluster, index);
      assert.ok(entry.every((byte) => byte === index % 251));
    }
    log.remove();
  }
});
