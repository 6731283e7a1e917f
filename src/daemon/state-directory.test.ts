import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { aDisk } from "../../test/support/store-conformance.ts";
import { SqliteStore } from "./sqlite-store.ts";
import { openStateDirectory } from "./state-directory.ts";

test("a directory that is not there is made, for its owner alone", (t) => {
  const path = join(temporaryDirectory(t), "new/state");
  using directory = openStateDirectory(path);
  assert.equal(directory.path, path);
  for (const made of [path, directory.sockets]) assert.equal(statSync(made).mode & 0o777, 0o700, made);
});

test("others may enter it when they are to get to sockets, and read nothing", (t) => {
  const path = join(temporaryDirectory(t), "state");
  openStateDirectory(path)[Symbol.dispose]();
  using directory = openStateDirectory(path, { enterable: true });
  for (const made of [path, directory.sockets]) assert.equal(statSync(made).mode & 0o777, 0o711, made);
  assert.equal(statSync(join(path, "lock")).mode & 0o777, 0o600);
});

test("a second daemon is told which directory is in use, and changes nothing", async (t) => {
  const path = temporaryDirectory(t);
  using directory = openStateDirectory(path);
  await using store = new SqliteStore(directory);
  await store.putDisk(aDisk("1", "web"));
  const before = contentOf(path);
  const expected = { code: "in-use", message: new RegExp(`'${path}' is in use by another daemon`) };
  assert.throws(() => openStateDirectory(path), expected);
  assert.deepEqual(contentOf(path), before);
  await store.putDisk(aDisk("2", "db"));
});

test("another process is kept out, and let in when the first was killed", async (t) => {
  const path = temporaryDirectory(t);
  const module = join(import.meta.dirname, "state-directory.ts");
  const script = `import { openStateDirectory } from ${JSON.stringify(module)};
    globalThis.held = openStateDirectory(${JSON.stringify(path)}); console.log("held"); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module-typescript", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  assert.throws(() => openStateDirectory(path), { code: "in-use" });
  child.kill("SIGKILL");
  await once(child, "close");
  openStateDirectory(path)[Symbol.dispose]();
});

test("a directory is let go and taken again", (t) => {
  const path = temporaryDirectory(t);
  const directory = openStateDirectory(path);
  directory[Symbol.dispose]();
  directory[Symbol.dispose]();
  using _again = openStateDirectory(path);
});

test("a directory that others may write to is refused", (t) => {
  const path = join(temporaryDirectory(t), "open");
  mkdirSync(path);
  chmodSync(path, 0o777);
  assert.throws(() => openStateDirectory(path), { code: "refused", message: /'.*open' cannot be .* write to it/ });
  assert.deepEqual(readdirSync(path), []);
});

test("what is no directory is refused by its name", () => {
  assert.throws(() => openStateDirectory("/dev/null"), { code: "exists", message: /'\/dev\/null'/ });
  assert.throws(() => openStateDirectory("/dev/null/state"), { code: "not-found", message: /'\/dev\/null\/state'/ });
});

function contentOf(path: string): [string, string][] {
  const files = readdirSync(path).filter((name) => name !== "sockets" && name !== "lock");
  return files.map((name) => [name, readFileSync(join(path, name), "base64")]);
}
