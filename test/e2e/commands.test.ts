import assert from "node:assert/strict";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
  watch,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  assertFails,
  cli,
  cliOk,
  hashes,
  makeOverlay,
  noise,
  peer,
  startCli,
  temporaryDirectory,
} from "../support/cli.ts";

const MIB = 1024 ** 2;

type Json = Record<string, unknown>;
const qemuInfo = (image: string) => JSON.parse(peer("qemu-img", "info", "--output=json", image)) as Json;

test("create makes images that qemu-img knows", async (t) => {
  const cwd = temporaryDirectory(t);
  const plain = await cliOk(["create", "vm.qcow2", "20G"], { cwd });
  assert.equal(plain.stdout, "Created 'vm.qcow2', qcow2, 20 GiB (21474836480 bytes)\n");
  await cliOk(["create", "vm.qed", "1.5G"], { cwd });
  await cliOk(["create", "./disk", "64M", "--format", "raw"], { cwd });
  await cliOk(["create", "small.qcow2", "1G", "-o", "cluster_size=4K,refcount_bits=8", "-o", "lazy_refcounts"], {
    cwd,
  });
  const json = await cliOk(["create", "top.qcow2", "-b", "vm.qcow2", "-F", "qcow2", "--json"], { cwd });
  assert.deepEqual(JSON.parse(json.stdout), {
    filename: "top.qcow2",
    format: "qcow2",
    "virtual-size": 20 * 1024 ** 3,
    "backing-filename": "vm.qcow2",
    "backing-filename-format": "qcow2",
  });

  assert.equal(qemuInfo(join(cwd, "vm.qcow2"))["virtual-size"], 20 * 1024 ** 3);
  assert.equal(qemuInfo(join(cwd, "vm.qed"))["virtual-size"], 1.5 * 1024 ** 3);
  assert.equal(statSync(join(cwd, "disk")).size, 64 * MIB);
  const small = qemuInfo(join(cwd, "small.qcow2"));
  assert.equal(small["cluster-size"], 4096);
  const specific = (small["format-specific"] as { data: Json }).data;
  assert.equal(specific["refcount-bits"], 8);
  assert.equal(specific["lazy-refcounts"], true);
  assert.equal(qemuInfo(join(cwd, "top.qcow2"))["backing-filename"], "vm.qcow2");
});

test("create does not overwrite, unless it is told to", async (t) => {
  const cwd = temporaryDirectory(t);
  await cliOk(["create", "vm.qcow2", "1G"], { cwd });
  const before = hashes(join(cwd, "vm.qcow2"));
  assertFails(await cli(["create", "vm.qcow2", "2G"], { cwd }), 73, "'vm.qcow2'", "exists");
  assert.deepEqual(hashes(join(cwd, "vm.qcow2")), before);
  await cliOk(["create", "vm.qcow2", "2G", "--force"], { cwd });
  assert.equal(qemuInfo(join(cwd, "vm.qcow2"))["virtual-size"], 2 * 1024 ** 3);
});

test("info says what qemu-img says, and what is local", async (t) => {
  const { image, base } = makeOverlay(temporaryDirectory(t));
  const info = JSON.parse((await cliOk(["info", image, "--json"])).stdout) as Json;
  for (const [name, value] of Object.entries(qemuInfo(image))) assert.deepEqual(info[name], value, name);
  const [local, zero, missing] = ["local-bytes", "zero-bytes", "missing-bytes"].map((name) => Number(info[name]));
  assert.equal(Number(local) + Number(zero) + Number(missing), 32 * MIB);
  assert.equal(local, 2 * MIB + 64 * 1024, "two MiB, and the cluster around a sector");

  const text = (await cliOk(["info", image])).stdout;
  assert.match(text, /^file format: qcow2\nvirtual size: 32 MiB \(33554432 bytes\)\ndisk size: /m);
  assert.match(text, /^local: 2\.06 MiB \(2162688 bytes\)\nzero: .*\nmissing: .*\n/m);
  assert.match(text, /^backing file: base\.raw \(actual path: .*base\.raw\)\nbacking file format: raw$/m);
  assert.match(text, /^Format specific information:\n {4}compat: 1\.1$/m);

  const chain = JSON.parse((await cliOk(["info", image, "--chain", "--json"])).stdout) as Json[];
  assert.deepEqual(
    chain.map(({ filename }) => filename),
    [image, base],
  );
  assert.match((await cliOk(["info", image, "--chain"])).stdout, /^image: .*vm\.qcow2[\s\S]*\n\nimage: .*base\.raw$/m);
});

test("map says what qemu-img says, and what is missing", async (t) => {
  const { image } = makeOverlay(temporaryDirectory(t));
  const map = JSON.parse((await cliOk(["map", image, "--json"])).stdout) as Json[];
  const at = (offset: number) =>
    map.find(({ start, length }) => Number(start) <= offset && offset < Number(start) + Number(length));
  assert.deepEqual([at(0)?.["missing"], at(0)?.["depth"], at(0)?.["data"]], [true, 1, true]);
  assert.deepEqual([at(20 * MIB)?.["missing"], at(20 * MIB)?.["depth"], at(20 * MIB)?.["data"]], [false, 0, true]);
  assert.deepEqual([at(4 * MIB)?.["missing"], at(4 * MIB)?.["depth"], at(4 * MIB)?.["zero"]], [false, 0, true]);
  assert.equal(
    map.reduce((sum, { length }) => sum + Number(length), 0),
    32 * MIB,
  );

  const text = (await cliOk(["map", image])).stdout;
  assert.match(text, /^Offset +Length +State +Mapped to +File\n0 +\S+ +missing +0 +.*base\.raw\n/);
  assert.match(text, /^0x1400000 +0x100000 +local +0x[0-9a-f]+ +.*vm\.qcow2$/m);
});

test("check has qemu-img's exit codes", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, base } = makeOverlay(directory);
  const clean = await cliOk(["check", image]);
  assert.match(
    clean.stdout,
    /^No errors were found on the image\.\n\d+\/512 = .*% allocated, .*\nImage end offset: \d+\n$/,
  );
  const json = JSON.parse((await cliOk(["check", image, "--json"])).stdout) as Json;
  const peers = JSON.parse(peer("qemu-img", "check", "--output=json", image)) as Json;
  for (const [name, value] of Object.entries(peers)) assert.deepEqual(json[name], value, name);
  assertFails(await cli(["check", base, "--format", "raw"]), 63, "base.raw", /raw/);

  const leaky = join(directory, "leaky.qcow2");
  copyFileSync(image, leaky);
  peer("truncate", "-s", "+64K", leaky);
  setRefcount(leaky, statSync(leaky).size / 65536 - 1, 1);
  const leaks = await cli(["check", leaky]);
  assert.equal(leaks.exit, 3, leaks.stderr);
  assert.match(leaks.stdout, /\n1 leaked clusters were found on the image\.\n/);
  const repaired = await cli(["check", leaky, "--repair", "leaks"]);
  assert.equal(repaired.exit, 0, repaired.stdout + repaired.stderr);
  assert.match(repaired.stdout, /1 leaked clusters were given back/);
  peer("qemu-img", "check", "-q", leaky);

  const corrupt = join(directory, "corrupt.qcow2");
  copyFileSync(image, corrupt);
  setRefcount(corrupt, 3, 0);
  const before = hashes(corrupt);
  for (const args of [[], ["--repair", "leaks"]]) {
    const end = await cli(["check", corrupt, ...args]);
    assert.equal(end.exit, 2, end.stderr);
    assert.match(end.stdout, /\n1 errors were found on the image\.\nData may be corrupted/);
  }
  assert.deepEqual(hashes(corrupt), before);
});

test("compare: 0 the same, 1 different", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, expected, base } = makeOverlay(directory);
  assert.equal((await cliOk(["compare", image, expected, "--format-b", "raw"])).stdout, "Images are identical.\n");
  const differs = await cli(["compare", image, base, "--format-b", "raw"]);
  assert.equal(differs.exit, 1);
  assert.equal(differs.stdout, `Content mismatch at offset ${1.5 * MIB}\n`);
  const json = await cli(["compare", image, base, "--format-b", "raw", "--json"]);
  assert.equal(json.exit, 1);
  assert.equal((JSON.parse(json.stdout) as Json)["offset"], 1.5 * MIB);

  const longer = join(directory, "longer.raw");
  copyFileSync(expected, longer);
  peer("truncate", "-s", "+1M", longer);
  const longerTail = await cliOk(["compare", expected, longer, "-f", "raw", "-F", "raw"]);
  assert.match(longerTail.stderr, /^streamdisk: warning: '.*' has 33554432 bytes and '.*longer.raw' 34603008\n$/);
  const strict = await cli(["compare", expected, longer, "-f", "raw", "-F", "raw", "--strict"]);
  assert.equal(strict.exit, 1);
  assert.match(strict.stdout, /^Image sizes differ: 33554432 and 34603008 bytes\n$/);
});

test("convert copies what a reader sees", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, expected } = makeOverlay(directory);
  let from = image;
  for (const name of ["a.qed", "b.raw", "c.qcow2"]) {
    const to = join(directory, name);
    const format = name.slice(2);
    const { stdout } = await cliOk(["convert", from, to]);
    assert.match(stdout, new RegExp(`^Wrote '.*${name}', ${format}, 32 MiB .*: 1\\d\\S* MiB of data\n$`));
    peer("qemu-img", "compare", "-q", "-f", format, "-F", "raw", to, expected);
    from = to;
  }
  const target = join(directory, "b.raw");
  const before = hashes(target);
  assertFails(await cli(["convert", image, target]), 73, target);
  assert.deepEqual(hashes(target), before);
  const json = await cliOk(["convert", image, target, "-O", "qcow2", "-o", "cluster_size=2M", "--force", "--json"]);
  assert.equal((JSON.parse(json.stdout) as Json)["virtual-size"], 32 * MIB);
  assert.equal(qemuInfo(target)["cluster-size"], 2 * MIB);
});

test("Ctrl-C ends a convert, and nothing of the new image is left", async (t) => {
  const directory = temporaryDirectory(t);
  const source = join(directory, "source.raw");
  writeFileSync(source, noise(96 * MIB, 7));
  const places = join(directory, "new");
  mkdirSync(places);
  const running = startCli(["convert", source, join(places, "copy.qcow2"), "-f", "raw", "-o", "cluster_size=64K"]);
  const watcher = watch(places, () => running.child.killed || running.child.kill("SIGINT"));
  const end = await running.ended;
  watcher.close();
  assert.equal(end.exit, 130, end.stderr + end.stdout);
  assert.equal(end.stderr, "streamdisk: Interrupted by SIGINT\n");
  assert.deepEqual(readdirSync(places), []);
});

test("resize takes sizes, more and less", async (t) => {
  const { image } = makeOverlay(temporaryDirectory(t));
  assert.match(
    (await cliOk(["resize", image, "+1M"])).stdout,
    /from 32 MiB \(33554432 bytes\) to 33 MiB \(34603008 bytes\)\n$/,
  );
  assert.equal(qemuInfo(image)["virtual-size"], 33 * MIB);
  const before = hashes(image);
  assertFails(await cli(["resize", image, "-1M"]), 77, "--shrink");
  assertFails(await cli(["resize", image, "-40M", "--shrink"]), 64, "'-40M'");
  assert.deepEqual(hashes(image), before);
  const json = await cliOk(["resize", image, "-1M", "--shrink", "--json"]);
  assert.deepEqual(JSON.parse(json.stdout), {
    filename: image,
    "virtual-size": 32 * MIB,
    "previous-virtual-size": 33 * MIB,
  });
  await cliOk(["resize", image, "40M"]);
  assert.equal(qemuInfo(image)["virtual-size"], 40 * MIB);
});

test("rebase follows a base that moved, and refuses another", async (t) => {
  const directory = temporaryDirectory(t);
  const { image, base, expected } = makeOverlay(directory);
  mkdirSync(join(directory, "moved"));
  const moved = join(directory, "moved", "base.raw");
  renameSync(base, moved);
  const { stdout } = await cliOk(["rebase", image, "--backing", "moved/base.raw", "-F", "raw"]);
  assert.match(stdout, /is now 'moved\/base\.raw', it was 'base\.raw'/);
  peer("qemu-img", "compare", "-q", image, expected);

  const other = join(directory, "other.raw");
  copyFileSync(moved, other);
  const file = openSync(other, "r+");
  writeSync(file, Buffer.alloc(MIB, 1), 0, MIB, 0);
  closeSync(file);
  const before = hashes(image);
  assertFails(await cli(["rebase", image, "-b", "other.raw", "-F", "raw"]), 77, "other.raw", "--force");
  assertFails(await cli(["rebase", image, "-b", "gone.raw", "-F", "raw"]), 66, "gone.raw");
  assert.deepEqual(hashes(image), before);
  const json = await cliOk(["rebase", image, "-b", "other.raw", "-F", "raw", "--force", "--json"]);
  assert.equal((JSON.parse(json.stdout) as Json)["backing-filename"], "other.raw");
  assert(existsSync(other));
});

/** Sets an entry of the first refcount block of an image that qemu-img made with clusters of 64 KiB. */
function setRefcount(image: string, cluster: number, count: number): void {
  const file = openSync(image, "r+");
  writeSync(file, Buffer.of(count >> 8, count & 255), 0, 2, 2 * 65536 + 2 * cluster);
  closeSync(file);
}
