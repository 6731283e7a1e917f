import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

const ROOT = join(import.meta.dirname, "../..");

function check(command: string, ...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(join(ROOT, "node_modules/.bin", command), args, {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(status, 0, `${command} ${args.join(" ")} says:\n${stdout}${stderr}`);
}

test("the linter finds nothing", () => check("biome", "check", "--error-on-warnings", "--max-diagnostics=50"));

test("the types fit", () => check("tsc", "-p", "."));

test("so do those of the page", () => check("tsc", "-p", "web"));
