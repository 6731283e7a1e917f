/** A daemon on a state directory that another version of it has left. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { MIGRATIONS } from "../../src/daemon/schema.ts";
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
