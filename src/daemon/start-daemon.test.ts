import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

test("whoever only looks for a daemon does not load SQLite, of which Node.js 22 warns", () => {
  const loaded = (module: string): string => {
    const script = `await import(${JSON.stringify(join(import.meta.dirname, module))});
      console.log(process.moduleLoadList.filter((name) => name === 'NativeModule sqlite').length);`;
    return spawnSync(process.execPath, ["--input-type=module", "--eval", script], { encoding: "utf8" }).stdout;
  };
  assert.equal(loaded("index.ts"), "0\n");
  assert.equal(loaded("run-daemon.ts"), "1\n");
});
