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

for (const [index] of MIGRATIONS.entries()) {
  const version = index + 1;
  test(`a daemon goes on with what schema ${version} has left, as far as it is still there`, async (t) => {
    const text = readFileSync(join(FIXTURES, `state-${version}/content.json`), "utf8");
    const was = JSON.parse(text) as { disks: { name: string; state: string }[]; exports: { name: string }[] };
    await using daemon = new DaemonProcess(left(t, version), ["--log-level", "silent"]);
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

test("a store with a flipped byte is reported, and rebuilt from the images when asked", async (t) => {
  const directory = temporaryDirectory(t);
  const base = join(directory, "images", "base.raw");
  const written = Buffer.alloc(4096, 7);
  let uri: string;
  {
    await using daemon = new DaemonProcess(directory);
    writeFileSync(base, Buffer.alloc(2 ** 20, 1));
    await daemon.start();
    const body = { name: "vm1", backing: base, backingFormat: "raw" } as const;
    uri = (await daemon.client.call("createDisk", { body })).uri ?? "";
    await using guest = await connectNbd(uri);
    await guest.write(8192, written);
    await guest.flush();
    await daemon.stop();
  }
  const path = join(directory, "state", "state.db");
  const bytes = readFileSync(path);
  const at = bytes.indexOf(`"name":"vm1"`);
  assert(at > 0);
  bytes.write("w", at + 8);
  writeFileSync(path, bytes);
  const end = await cli(["daemon", "--state-directory", join(directory, "state")]);
  assertFails(end, 65, /state\.db' is damaged: .*--rebuild-store/s);

  await using daemon = new DaemonProcess(directory, ["--rebuild-store"]);
  await daemon.start();
  const disk = await daemon.client.disk("vm1").info();
  assert.deepEqual([disk.state, disk.uri, disk.backing], ["ready", uri, base]);
  await using guest = await connectNbd(uri);
  const read = Buffer.alloc(8192);
  await guest.read(8192, read);
  assert(read.equals(Buffer.concat([written, Buffer.alloc(4096, 1)])));
  await daemon.stop();
});
