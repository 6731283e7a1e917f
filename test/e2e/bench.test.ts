import assert from "node:assert/strict";
import { cpSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { buildProgram } from "../support/built-program.ts";
import { peer, temporaryDirectory } from "../support/cli.ts";

const ROOT = join(import.meta.dirname, "../..");
const GROUPS = ["--group", "offline,stream,server", "--rows", "stream-qcow2,compare,stream-5ms,raw-4k,qed-4k"];

/** Each row also makes sure that what was measured did what it should. */
test("the bench measures rows of each group", (t) => {
  const directory = join(temporaryDirectory(t), "program");
  buildProgram(directory);
  cpSync(join(ROOT, "bench"), join(directory, "bench"), { recursive: true });
  for (const room of ["src", "test"]) symlinkSync(join(ROOT, room), join(directory, room));
  const bench = [join(directory, "bench/run.ts"), ...GROUPS, "--size", "16", "--runs", "1", "--seconds", "1", "--json"];
  const { sections } = JSON.parse(peer(process.execPath, ...bench)) as {
    sections: readonly { rows: readonly Readonly<Record<string, string>>[] }[];
  };
  assert.equal(sections.length, 3);
  const rows = sections.flatMap((section) => section.rows);
  assert.ok(rows.length >= 5, `${rows.length} rows`);
  for (const row of rows) {
    const ratios = Object.entries(row).filter(([name]) => /^(ratio|against)/.test(name));
    assert.ok(ratios.length > 0 && ratios.every(([, ratio]) => Number.parseFloat(ratio) > 0), JSON.stringify(row));
  }
});
