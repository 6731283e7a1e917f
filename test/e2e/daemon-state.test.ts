/** A daemon on a state directory that another version of it has left, or that was damaged. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { MIGRATIONS } from "../../src/daemon/schema.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { assertFails, cli, hashes, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

const FIXTURES = join(import.meta.dirname, "../fixtures");

function left(t: TestContext, version: number): string {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, "state"), { mode: 0o700 });
  copyFileSync(join(FIXTURES, `state-${version}/state.db`), join(directory, "state/state.db"));
  return directory;
}

test("there is a state directory of each schema", () => {
  const versions = readdirSync(FIXTURES).filter((name) => name.startsWith("state-"));
  assert.deepEqual(
    versions.sort(),
    MIGRATIONS.map((_, index) => `state-${index + 1}`),
  );
});

/** What the daemons were allowed that have left those. */
const ALLOWED = [
  ...["/srv", "/var/lib/streamdisk", "https://images.example/"].flatMap((place) => ["--allow", place]),
  ...["--allow-keys", "/etc/pki"],
];

for (const [index] of MIGRATIONS.entries()) {
  const version = index + 1;
  test(`a daemon goes on with what schema ${version} has left, as far as it is still there`, async (t) => {
    const text = readFileSync(join(FIXTURES, `state-${version}/content.json`), "utf8");
    const was = JSON.parse(text) as { disks: { name: string; state: string }[]; exports: { name: string }[] };
    await using daemon = new DaemonProcess(left(t, version), ["--log-level", "silent", ...ALLOWED]);
    await daemon.start();
    const { disks } = await daemon.client.call("listDisks", {});
    const { exports } = await daemon.client.call("listExports", {});
    // What was being deleted is gone now; the images of the others are on another machine.
    const kept = was.disks.filter(({ state }) => state === "ready").map(({ name }) => name);
    assert.deepEqual(
      disks.map(({ name, error }) => [name, error?.code]),
      kept.map((name) => [name, "not-found"]),
    );
    assert.deepEqual(
      exports.map(({ name, error }) => [name, error?.code]),
      was.exports.map(({ name }) => [name, "not-found"]),
    );
    const made = await daemon.client.call("createDisk", { body: { name: "new", size: 2 ** 20 } });
    assert.equal(made.state, "ready");
    assert.equal((await daemon.stop())?.exit, 0);
  });
}

test("a state directory of a newer version is refused, and nothing of it is touched", async (t) => {
  const state = join(left(t, MIGRATIONS.length), "state");
  const path = join(state, "state.db");
  {
    using db = new DatabaseSync(path);
    db.exec("PRAGMA user_version = 99");
  }
  const before = hashes(path);
  for (const more of [[], ["--rebuild-store"]]) {
    const end = await cli(["daemon", "--state-directory", state, ...more]);
    assertFails(end, 77, /newer streamdisk \(schema 99/);
  }
  assert.deepEqual(hashes(path), before);
  assert.deepEqual(
    readdirSync(state).filter((name) => name.startsWith("state.db")),
    ["state.db"],
  );
});

test("a disk whose record is damaged is a disk again, and all else is kept, also when the store is rebuilt", async (t) => {
  const directory = temporaryDirectory(t);
  const base = join(directory, "images", "base.raw");
  const path = join(directory, "state", "state.db");
  const written = Buffer.alloc(4096, 7);
  let uri: string;
  {
    await using daemon = new DaemonProcess(directory);
    writeFileSync(base, Buffer.alloc(2 ** 20, 1));
    await daemon.start();
    const body = { name: "vm1", backing: base, backingFormat: "raw" } as const;
    uri = (await daemon.client.call("createDisk", { body })).uri ?? "";
    await daemon.client.call("addExport", { body: { name: "base", image: base, format: "raw", listen: {} } });
    await daemon.client.disk("vm1").stream({ speed: 1024 });
    await daemon.client.disk("vm1").pause();
    await using guest = await connectNbd(uri);
    await guest.write(8192, written);
    await guest.flush();
    await daemon.stop();
  }
  const asItWas = async (daemon: DaemonProcess) => {
    const disk = await daemon.client.disk("vm1").info();
    assert.deepEqual([disk.state, disk.uri, disk.backing, disk.stream?.state], ["ready", uri, base, "paused"]);
    const { exports } = await daemon.client.call("listExports", {});
    assert.deepEqual(
      exports.map(({ name, error }) => [name, error]),
      [["base", undefined]],
    );
    await using guest = await connectNbd(uri);
    const read = Buffer.alloc(8192);
    await guest.read(8192, read);
    assert(read.equals(Buffer.concat([written, Buffer.alloc(4096, 1)])));
  };
  const bytes = readFileSync(path);
  const at = bytes.indexOf(`"name":"vm1"`);
  assert(at > 0);
  bytes.write("w", at + 8);
  writeFileSync(path, bytes);
  {
    await using daemon = new DaemonProcess(directory);
    await daemon.start();
    await asItWas(daemon);
    const { events } = await daemon.client.call("listEvents", { query: { disk: "vm1", limit: 100 } });
    const lost = /record of the disk 'vm1' was damaged and is lost/;
    assert(events.some(({ type, message }) => type === "store-damaged" && lost.test(message)));
    const { stdout } = await cli(["daemon", "status"], { env: daemon.env });
    assert.match(stdout, lost);
    assert.match(stdout, /vm1\.qcow2' was adopted as the disk 'vm1'/);
    await daemon.stop();
  }
  {
    using db = new DatabaseSync(path);
    db.exec("PRAGMA user_version = 0");
  }
  const end = await cli(["daemon", "--state-directory", join(directory, "state")]);
  assertFails(end, 65, /state\.db' is damaged: .*--rebuild-store/s);
  await using daemon = new DaemonProcess(directory, ["--rebuild-store"]);
  await daemon.start();
  await asItWas(daemon);
  await daemon.stop();
});
