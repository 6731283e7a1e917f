import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { HostFact } from "../../src/host/index.ts";
import { cli, temporaryDirectory } from "../support/cli.ts";

test("the doctor says what works, a line a fact", async (t) => {
  const directory = temporaryDirectory(t);
  const end = await cli(["doctor", directory]);
  assert.match(end.stdout, /^ok {2}Node\.js +v\d+\./m);
  assert.match(end.stdout, /^ok {2}qemu-img +version \d/m);
  assert.equal(end.stderr, "");
  assert.equal(end.exit, /^NO/m.test(end.stdout) ? 1 : 0, end.stdout);
  assert.deepEqual(readdirSync(directory), [], "what it tried is gone");
});

test("what does not work is exit code 1, with a hint", async (t) => {
  const directory = join(temporaryDirectory(t), "none");
  const end = await cli(["doctor", directory, "--json"], { env: { PATH: "/nowhere" } });
  assert.equal(end.exit, 1);
  const { facts } = JSON.parse(end.stdout) as { facts: HostFact[] };
  for (const name of ["directory", "qemu-img"]) {
    const fact = facts.find((found) => found.name === name);
    assert.equal(fact?.ok, false, name);
    assert(fact.hint !== undefined && fact.hint !== "", name);
  }
});
