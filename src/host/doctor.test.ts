import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { probeHost } from "./doctor.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-doctor-"));
after(() => rmSync(directory, { recursive: true }));

const NAMES = [
  "Node.js",
  "native calls",
  "directory",
  "free space",
  "locking images",
  "finding holes",
  "punching holes",
  "log of acknowledged writes",
];

test("every fact of a directory, and nothing left in it", async () => {
  const facts = await probeHost(directory);
  assert.deepEqual(
    facts.map((fact) => fact.name),
    NAMES,
  );
  for (const name of ["Node.js", "native calls", "directory", "locking images"]) {
    assert.ok(facts.find((fact) => fact.name === name)?.ok, name);
  }
  for (const fact of facts) assert.equal(fact.hint === undefined, fact.ok, fact.name);
  assert.deepEqual(readdirSync(directory), []);
});

test("a directory that is not there", async () => {
  const facts = await probeHost(join(directory, "nowhere"));
  const fact = facts.find(({ name }) => name === "directory");
  assert.equal(fact?.ok, false);
  assert.match(fact?.detail ?? "", /nowhere/);
  assert.equal(facts.length, NAMES.length - 4);
});
