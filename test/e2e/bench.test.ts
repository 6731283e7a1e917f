import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { buildProgram } from "../support/built-program.ts";
import { peer, temporaryDirectory } from "../support/cli.ts";

/** Each row also makes sure that what was measured did what it should. */
test("the bench measures every row", (t) => {
  const directory = join(temporaryDirectory(t), "program");
  buildProgram(directory);
  cpSync(join(import.meta.dirname, "../../bench"), join(directory, "bench"), { recursive: true });
  const output = peer(process.execPath, join(directory, "bench/run.ts"), "--size", "32", "--runs", "1", "--json");
  const { rows } = JSON.parse(output) as {
    rows: { name: string; ratio: number; ours: { peak: number; cpu: number } }[];
  };
  assert.ok(rows.length >= 10);
  for (const { name, ratio, ours } of rows) {
    assert.ok(Number.isFinite(ratio) && ratio > 0 && ours.peak > 0 && ours.cpu > 0, name);
  }
});
