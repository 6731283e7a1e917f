/** The package as npm would publish it: packed, unpacked elsewhere, imported and run. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";

const ROOT = join(import.meta.dirname, "../..");

const directory = mkdtempSync(join(tmpdir(), "streamdisk-package-"));
const installed = join(directory, "node_modules/streamdisk");
after(() => rmSync(directory, { recursive: true, force: true }));

const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
  version: string;
  exports: Record<string, string | { types: string; default: string }>;
  dependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
};

before(() => {
  const packing = spawnSync("npm", ["pack", "--loglevel=error", "--pack-destination", directory], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(packing.status, 0, `npm pack says:\n${packing.stdout}${packing.stderr}`);
  mkdirSync(installed, { recursive: true });
  const tarball = join(directory, `streamdisk-${manifest.version}.tgz`);
  execFileSync("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"]);
  for (const name of Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies })) {
    const place = join(directory, "node_modules", name);
    mkdirSync(dirname(place), { recursive: true });
    symlinkSync(join(ROOT, "node_modules", name), place);
  }
});

function node(...args: string[]) {
  return spawnSync(process.execPath, args, { cwd: directory, encoding: "utf8" });
}

test("it holds what it needs and no more", () => {
  const files = globSync("**/*", { cwd: installed });
  for (const file of ["LICENSE", "README.md", "CHANGELOG.md"]) assert.ok(files.includes(file), file);
  assert.ok(files.includes("dist/web/index.html") && files.some((file) => /^dist\/web\/assets\/.*\.js$/.test(file)));
  assert.deepEqual(
    files.filter((file) => /(?<!\.d)\.ts$|\.test\./.test(file)),
    [],
  );
});

test("every export can be imported and has types", () => {
  for (const [name, target] of Object.entries(manifest.exports)) {
    if (typeof target === "string") continue;
    assert.equal(globSync(target.types, { cwd: installed }).length, 1, target.types);
    const specifier = join("streamdisk", name);
    const { stdout, stderr } = node(
      "-p",
      `import("${specifier}").then((room) => console.log(Object.keys(room).length > 0))`,
    );
    assert.match(stdout, /^true$/m, `${specifier}: ${stderr}`);
  }
});

test("its command runs", () => {
  const { stdout, status } = node(join(installed, "bin/streamdisk.js"), "--version");
  assert.deepEqual({ stdout, status }, { stdout: `${manifest.version}\n`, status: 0 });
});

test("its command says in one line that Node.js is too old", () => {
  const old = 'data:text/javascript,Object.defineProperty(process.versions, "node", { value: "22.18.0" })';
  const { stdout, stderr, status } = node("--import", old, join(installed, "bin/streamdisk.js"), "--version");
  assert.match(stderr, /^streamdisk needs Node\.js 22\.19 or newer, and this is 22\.18\.0: .*\n$/);
  assert.deepEqual({ stdout, status }, { stdout: "", status: 1 });
});
