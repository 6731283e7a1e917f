import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

test("who works on images of this machine does not load what speaks HTTP, which would be a fifth of a command's start", () => {
  const script = `await import(${JSON.stringify(join(import.meta.dirname, "index.ts"))});
    console.log(process.moduleLoadList.filter((name) => /^NativeModule _?http/.test(name)).length);`;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "--eval", script], { encoding: "utf8" });
  assert.equal(stdout, "0\n");
});
