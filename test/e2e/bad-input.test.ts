/** What people get wrong: one line that names the thing, the right exit code, and no file changed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  assertComplete,
  assertFails,
  cli,
  cliOk,
  hashes,
  MAIN,
  makeOverlay,
  peer,
  temporaryDirectory,
} from "../support/cli.ts";

/** Every command that opens an image, with the image to put in. */
const openers = (image: string, into: string): string[][] => [
  ["info", image],
  ["info", image, "--chain", "--json"],
  ["map", image],
  ["map", image, "--json"],
  ["check", image],
  ["compare", image, image],
  ["convert", image, into],
  ["resize", image, "64M"],
  ["resize", image, "+1M"],
  ["rebase", image, "--backing", ""],
  ["stream", image],
  ["stream", image, "--json"],
  ["stream", image, "--step"],
];

function formatFlags([command]: readonly string[], format: string): string[] {
  if (command === "convert") return ["--source-format", format];
  return command === "compare" ? ["--format-a", format] : ["--format", format];
}

test("a file that is not there", async (t) => {
  const directory = temporaryDirectory(t);
  const gone = join(directory, "gone.qcow2");
  for (const args of openers(gone, join(directory, "new.raw"))) {
    assertFails(await cli(args), 66, `'${gone}'`, /no such file/);
  }
  assert.deepEqual(readdirSync(directory), [], "nothing was made");
});

test("a directory in place of an image", async (t) => {
  const directory = temporaryDirectory(t);
  const image = join(directory, "vm.qcow2");
  mkdirSync(image);
  for (const args of openers(image, join(directory, "new.raw"))) {
    const end = await cli(args);
    assertFails(end, end.exit ?? 0, `'${image}'`);
    assert(end.exit !== 0 && (end.exit ?? 0) >= 64);
  }
  assert.deepEqual(readdirSync(directory), ["vm.qcow2"]);
});

test("a file of another format than it was said to be", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, base } = makeOverlay(directory);
  const before = hashes(image, base);
  for (const args of openers(base, join(directory, "new.raw"))) {
    assertFails(await cli([...args, ...formatFlags(args, "qcow2")]), 65, `'${base}'`, /qcow2/);
  }
  for (const path of [base, image])
    assertFails(await cli(["stream", path, "--format", "qed"]), 65, `'${path}'`, /QED/i);
  assert.deepEqual(hashes(image, base), before);
  assert(!existsSync(join(directory, "new.raw")));
});

test("an image that was cut off", async (t) => {
  const directory = temporaryDirectory(t);
  for (const format of ["qcow2", "qed"]) {
    const { image } = makeOverlay(directory, format);
    for (const length of [50, 8]) {
      truncateSync(image, length);
      const before = hashes(image);
      const all = openers(image, join(directory, "new.raw"));
      for (const args of length === 50 && format === "qcow2" ? all : [["stream", image]]) {
        assertFails(await cli([...args, ...formatFlags(args, format)]), 65, `'${image}'`);
      }
      assert.deepEqual(hashes(image), before);
    }
    rmSync(image);
  }
});

test("an image whose tables were cut off is not written to", async (t) => {
  const directory = temporaryDirectory(t);
  const { image } = makeOverlay(directory);
  truncateSync(image, 3 * 65536);
  const before = hashes(image);
  for (const args of [
    ["stream", image],
    ["resize", image, "64M"],
    ["convert", image, join(directory, "new.raw")],
  ]) {
    assertFails(await cli(args), 65, `'${image}'`);
  }
  const check = await cli(["check", image]);
  assert([2, 65].includes(check.exit ?? 0), `${check.exit} ${check.stdout} ${check.stderr}`);
  assert.deepEqual(hashes(image), before);
});

test("a size that is none", async (t) => {
  const cwd = temporaryDirectory(t);
  const { image } = makeOverlay(cwd);
  const before = hashes(image);
  for (const args of [
    ["create", "new.qcow2", "10X"],
    ["create", "new.raw", "10X"],
    ["resize", image, "10X"],
    ["resize", image, "+10X"],
    ["stream", image, "--speed", "10X"],
    ["stream", image, "--window", "10X"],
    ["stream", image, "--step", "--length", "10X"],
    ["stream", image, "--step", "--offset", "10X"],
  ]) {
    assertFails(await cli(args, { cwd }), 64, /'10X' is not a (size|rate)/, "K, M, G");
  }
  assertFails(await cli(["create", "new.qcow2"], { cwd }), 64, /size/i);
  assertFails(await cli(["create", "new.qcow2", "1G", "-o", "cluster_size=10X"], { cwd }), 64, "10X");
  assertFails(await cli(["create", "new.qcow2", "1G", "-o", "no_such=1"], { cwd }), 64, "no_such");
  assertFails(await cli(["stream", image, "--step", "--offset", "1T"], { cwd }), 64, "1099511627776");
  assert.deepEqual(hashes(image), before);
  assert(!readdirSync(cwd).some((name) => name.startsWith("new.")));
});

test("create over what cannot be", async (t) => {
  const cwd = temporaryDirectory(t);
  const { base } = makeOverlay(cwd);
  const before = hashes(base);
  assertFails(await cli(["create", "new.raw", "--backing", "base.raw", "-F", "raw"], { cwd }), 64, /raw/);
  assertFails(await cli(["create", "new.qcow2", "--backing", "gone.raw", "-F", "raw"], { cwd }), 66, "gone.raw");
  assertFails(await cli(["create", "none/new.qcow2", "1G"], { cwd }), 66, "none/new.qcow2");
  assert(!readdirSync(cwd).some((name) => name.startsWith("new.")));
  assert.deepEqual(hashes(base), before);
});

test("a base that is gone", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, base } = makeOverlay(directory);
  rmSync(base);
  const before = hashes(image);
  for (const args of [
    ["stream", image],
    ["stream", image, "--step"],
    ["convert", image, join(directory, "new.raw")],
    ["compare", image, image],
  ]) {
    assertFails(await cli(args), 66, "base.raw", image);
  }
  assert(!existsSync(join(directory, "new.raw")));
  const info = await cli(["info", image]);
  assert.equal(info.exit, 0, "info works without the base");
  assert.match(info.stdout, /^missing: unknown/m);
  assert.match(info.stderr, /^streamdisk: warning: .*base\.raw/);
  assert.deepEqual(hashes(image), before);
});

test("a base that is not in the chain", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, base } = makeOverlay(directory);
  const other = join(directory, "other.raw");
  copyFileSync(base, other);
  const before = hashes(image, base, other);
  assertFails(await cli(["stream", image, "--base", other]), 64, other, image);
  assertFails(await cli(["stream", image, "--base", image]), 64, image);
  assertFails(await cli(["stream", image, "--base", join(directory, "gone.raw")]), 66, "gone.raw");
  assert.deepEqual(hashes(image, base, other), before);
});

test("a backing file that nobody allowed", async (t) => {
  const directory = temporaryDirectory(t);
  const elsewhere = temporaryDirectory(t);
  const secret = join(elsewhere, "secret.raw");
  writeFileSync(secret, Buffer.alloc(65536, "secret "));
  const image = join(directory, "vm.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", image);
  const before = hashes(image);
  for (const args of [
    ["stream", image],
    ["convert", image, join(directory, "new.raw")],
  ]) {
    assertFails(await cli(args), 77, secret, "--allow-backing");
  }
  assert(!existsSync(join(directory, "new.raw")));
  assert.deepEqual(hashes(image), before);
  for (const allow of [secret, elsewhere, "any"]) await cliOk(["map", image, "--allow-backing", allow]);
  await cliOk(["stream", image, "--allow-backing", elsewhere]);
});

test("a file that may not be written", async (t) => {
  const directory = temporaryDirectory(t);
  const { image } = makeOverlay(directory);
  chmodSync(image, 0o444);
  const before = hashes(image);
  // Root may write what it likes, so it has to do without the capability.
  const under = process.getuid?.() === 0 ? ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] : [];
  for (const args of [
    ["stream", image],
    ["stream", image, "--step"],
    ["resize", image, "+1M"],
    ["rebase", image, "--backing", "", "--force"],
    ["check", image, "--repair", "leaks"],
  ]) {
    assertFails(await cli(args, { under }), 77, `'${image}'`, /permission denied/i);
  }
  chmodSync(directory, 0o555);
  assertFails(await cli(["create", join(directory, "new.qcow2"), "1G"], { under }), 77, "new.qcow2");
  assertFails(await cli(["convert", image, join(directory, "new.raw")], { under }), 77, "new.raw");
  chmodSync(directory, 0o755);
  assert.deepEqual(hashes(image), before);
  for (const command of ["info", "map", "check"])
    assert.equal((await cli([command, image], { under })).exit, 0, command);
});

test("a disk that is full: the stream says where it stopped, and goes on when there is room", async (t) => {
  const directory = temporaryDirectory(t);
  const overlay = makeOverlay(directory);
  peer("qemu-img", "rebase", "-u", "-b", overlay.base, "-F", "raw", overlay.image);
  const end = onSmallDisk(
    directory,
    `cp "${overlay.image}" vm.qcow2
     "$NODE" "$MAIN" stream vm.qcow2 --allow-backing any >/dev/null || echo "stream $?"
     qemu-img check -q vm.qcow2 && echo clean
     cp vm.qcow2 "${overlay.image}"`,
  );
  assert.equal(end.stdout, "stream 73\nclean\n", end.stderr);
  assert.match(
    end.stderr,
    /^(streamdisk: warning: [^\n]*\n)?streamdisk: [^\n]*'vm\.qcow2'[^\n]*no space left[^\n]*\n$/,
  );
  assert.match(end.stderr, /stopped at .* What was fetched stays .* Go on with: streamdisk stream vm\.qcow2 /);
  await cliOk(["stream", overlay.image]);
  assertComplete(overlay);
});

test("a disk that is full: with --retry-for the stream waits, says so, and goes on by itself", async (t) => {
  const directory = temporaryDirectory(t);
  const overlay = makeOverlay(directory);
  peer("qemu-img", "rebase", "-u", "-b", overlay.base, "-F", "raw", overlay.image);
  const end = onSmallDisk(
    directory,
    `cp "${overlay.image}" vm.qcow2
     "$NODE" "$MAIN" stream vm.qcow2 --allow-backing any --retry-for 60s >said 2>warned &
     until grep -q waiting warned; do sleep 0.1; done
     mount -o remount,size=64m .
     wait $! && cat said
     cat warned >&2
     cp vm.qcow2 "${overlay.image}"`,
  );
  assert.match(end.stdout, /^'vm\.qcow2' stands alone now/, end.stderr);
  assert.match(end.stderr, /^streamdisk: warning: waiting: [^\n]*no space left[^\n]*$/m);
  assertComplete(overlay);
});

test("a disk that is full: convert leaves nothing behind", (t) => {
  const directory = temporaryDirectory(t);
  const { image } = makeOverlay(directory);
  const end = onSmallDisk(directory, `"$NODE" "$MAIN" convert "${image}" new.qcow2 || echo "convert $?"; ls`);
  assert.equal(end.stdout, "convert 73\n", end.stderr);
  assert.match(end.stderr, /^streamdisk: [^\n]*'new\.qcow2'[^\n]*no space left[^\n]*\n$/);
});

/** Runs a shell script in a file system of 8 MiB, which is gone when the script ends. */
function onSmallDisk(directory: string, script: string): { stdout: string; stderr: string } {
  const small = join(directory, "small");
  mkdirSync(small);
  const flags = process.getuid?.() === 0 ? ["-m"] : ["-r", "-m"];
  const mount = `set -eu; mount -t tmpfs -o size=8m none "${small}"; cd "${small}"`;
  const env = { ...process.env, NODE: process.execPath, MAIN };
  return spawnSync("unshare", [...flags, "sh", "-c", `${mount}\n${script}`], { encoding: "utf8", env });
}

test("STREAMDISK_DEBUG=1 adds the stack trace", async (t) => {
  const gone = join(temporaryDirectory(t), "gone.qcow2");
  const end = await cli(["info", gone], { env: { STREAMDISK_DEBUG: "1" } });
  assert.equal(end.exit, 66);
  assert.match(end.stderr, /^streamdisk: [^\n]*no such file[^\n]*\nStreamdiskError: [\s\S]*\n {4}at /);
});
