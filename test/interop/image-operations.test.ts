import assert from "node:assert/strict";
import { copyFile, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import {
  checkImage,
  compareImages,
  convertImage,
  createImage,
  type FormatName,
  imageInfo,
  openImage,
  rebaseImage,
  resizeImage,
} from "../../src/index.ts";
import { makeZooImage, ZOO_NAMES, type ZooImage } from "../support/image-zoo.ts";
import { qemuImg, qemuIo, run } from "../support/qemu.ts";
import { sample } from "../support/seed.ts";

let directory: string;
const zoo = new Map<string, ZooImage>();
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "streamdisk-operations-"));
});
after(() => rm(directory, { recursive: true, force: true }));

const zooImage = (name: string): ZooImage => makeZooImage(name, directory, zoo);
const place = (name: string): string => join(directory, name);

const DESTINATIONS: readonly { format: FormatName; options?: Record<string, string> }[] = [
  { format: "raw" },
  { format: "qcow2" },
  { format: "qcow2", options: { cluster_size: "4k", compat: "0.10" } },
  { format: "qcow2", options: { extended_l2: "on", cluster_size: "128k" } },
  { format: "qed" },
  { format: "qed", options: { cluster_size: "2M" } },
];
const CONVERSIONS = ZOO_NAMES.flatMap((name) => DESTINATIONS.map((to) => ({ name, to })));

for (const { name, to } of sample("conversions", CONVERSIONS, 24)) {
  test(`converted: ${name} to ${to.format} ${JSON.stringify(to.options ?? {})}`, async () => {
    const { path, format } = zooImage(name);
    const destination = place("converted");
    await rm(destination, { force: true });
    const { size } = await convertImage(path, destination, { ...to, sourceFormat: format });
    assert.equal(size, (await stat(path)).size && (await imageInfo(path, { format }))["virtual-size"]);
    assert.match(qemuImg("compare", "-f", format, "-F", to.format, path, destination), /identical/);
    assert.ok(
      (await compareImages(path, destination, { formatA: format, formatB: to.format, strict: true })).identical,
    );
    if (to.format !== "raw") qemuImg("check", "-q", "-f", to.format, destination);
  });
}

test("compare finds the first byte that differs, as qemu-img finds that there is one", async () => {
  const a = place("a.qcow2");
  const b = place("b.raw");
  qemuImg("create", "-q", "-f", "qcow2", a, "8M");
  qemuImg("create", "-q", "-f", "raw", b, "10M");
  assert.deepEqual(await compareImages(a, b, { formatB: "raw" }), {
    identical: true,
    lengthA: 8 * 2 ** 20,
    lengthB: 10 * 2 ** 20,
    warnings: [`'${a}' has ${8 * 2 ** 20} bytes and '${b}' ${10 * 2 ** 20}`],
  });
  const strict = await compareImages(a, b, { formatB: "raw", strict: true });
  assert.deepEqual(strict.difference, { kind: "size", offset: 8 * 2 ** 20 });
  for (const offset of [9_000_000, 5_000_001, 4_999_999, 77]) {
    qemuIo(b, [`write -P 1 ${offset} 1`], "-f", "raw");
    const { identical, difference } = await compareImages(a, b, { formatB: "raw" });
    assert.equal(identical, false);
    assert.deepEqual(difference, { kind: "content", offset });
    assert.equal(run("qemu-img", "compare", "-F", "raw", a, b).status, 1);
  }
  // Zeroes that are data in one and nothing in the other are the same.
  qemuIo(b, ["write -P 0 0 10M"], "-f", "raw");
  assert.ok((await compareImages(a, b, { formatB: "raw" })).identical);
});

test("create: size and format of the backing file, and QEMU agrees", async () => {
  const base = zooImage("qcow2");
  for (const format of ["qcow2", "qed"] as const) {
    const path = place(`made.${format}`);
    const made = await createImage(path, { format, backing: "qcow2.qcow2" });
    assert.equal(made.size, (await imageInfo(base.path))["virtual-size"]);
    const peer = JSON.parse(qemuImg("info", "--output=json", path));
    assert.equal(peer["virtual-size"], made.size);
    assert.equal(peer["full-backing-filename"], base.path);
    assert.match(qemuImg("compare", path, base.path), /identical/);
    await rm(path);
  }
});

test("create refuses what is there, and leaves nothing when it fails", async () => {
  const path = place("there.qcow2");
  await writeFile(path, "precious");
  const names = await readdir(directory);
  const make = (options: object): Promise<unknown> => createImage(path, { format: "qcow2", size: 2 ** 20, ...options });
  await assert.rejects(make({}), { code: "exists", message: /there.qcow2' exists and is not empty/ });
  await assert.rejects(make({ force: true, options: { cluster_size: "3" } }), { code: "invalid-argument" });
  await assert.rejects(make({ force: true, backing: "gone.qcow2" }), { code: "not-found", message: /gone.qcow2'/ });
  await assert.rejects(make({ force: true, format: "raw", backing: "there.qcow2" }), { code: "invalid-argument" });
  await assert.rejects(make({ force: true, backing: "./there.qcow2", backingFormat: "raw" }), {
    code: "invalid-argument",
    message: /cannot be its own backing file/,
  });
  assert.equal(await readFile(path, "utf8"), "precious");
  assert.deepEqual(await readdir(directory), names);
  await make({ force: true });
  qemuImg("check", "-q", path);
  await rm(path);
  await assert.rejects(make({ options: { cluster_size: "3" } }), { code: "invalid-argument" });
  await assert.rejects(make({ size: undefined }), { code: "invalid-argument", message: /needs a size/ });
  await assert.rejects(stat(path), { code: "ENOENT" });
  // Who is at work on it keeps it.
  await make({});
  await using _image = await openImage(path);
  await assert.rejects(make({ force: true }), { code: "in-use" });
});

test("convert refuses what is there, and leaves nothing when it is aborted", async () => {
  const { path } = zooImage("qcow2");
  const destination = place("aborted.qed");
  await writeFile(destination, "precious");
  await assert.rejects(convertImage(path, destination, { format: "qed" }), { code: "exists" });
  const names = await readdir(directory);
  const signal = AbortSignal.abort();
  await assert.rejects(convertImage(path, destination, { format: "qed", force: true, signal }), { name: "AbortError" });
  assert.deepEqual(await readdir(directory), names);
  assert.equal(await readFile(destination, "utf8"), "precious");
});

test("resize: QEMU reads what it read before, and zeroes beyond", async () => {
  for (const name of ["qcow2 over raw long", "qed over raw", "qcow2", "raw"]) {
    const { path, format } = zooImage(name);
    const copy = place(`resized.${format}`);
    await copyFile(path, copy);
    const from = (await imageInfo(path, { format }))["virtual-size"];
    const to = 11 * 2 ** 20;
    assert.deepEqual(await resizeImage(copy, to, { format }), { from, to, warnings: [] });
    assert.match(qemuImg("compare", "-f", format, "-F", format, path, copy), /identical/);
    await assert.rejects(resizeImage(copy, 2 ** 20, { format }), { code: "refused", message: /--shrink/ });
    if (format !== "qed") {
      assert.equal((await resizeImage(copy, 2 ** 20, { format, shrink: true })).to, 2 ** 20);
      if (format !== "raw") qemuImg("check", "-q", "-f", format, copy);
    }
  }
  await assert.rejects(resizeImage(place("gone"), -5), { code: "invalid-argument" });
});

test("check says what qemu-img says", async () => {
  for (const name of ["qcow2", "qcow2 snapshot", "qcow2 compressed", "qed"]) {
    const { path, format } = zooImage(name);
    const ours = await checkImage(path);
    const peer = JSON.parse(qemuImg("check", "--output=json", "-f", format, path));
    // A count of nothing is left out by the one and said by the other.
    const counted = Object.fromEntries(Object.entries(ours).filter(([key, value]) => key in peer || value !== 0));
    const { findings, "image-end-offset": end, ...rest } = counted;
    assert.deepEqual(findings, []);
    // Of QED qemu-img does not tell it.
    if (format === "qed") assert.ok(Number(end) > 0);
    assert.deepEqual(format === "qed" ? rest : { ...rest, "image-end-offset": end }, peer);
  }
  await assert.rejects(checkImage(zooImage("raw").path, { format: "raw" }), { code: "unsupported" });
});

test("rebase: only the reference is changed, for a file of the same content", async () => {
  for (const name of ["qcow2 over raw", "qed over raw"]) {
    const { path, format } = zooImage(name);
    const copy = place(`rebased.${format}`);
    await copyFile(path, copy);
    const moved = place("moved.raw");
    await copyFile(zooImage("raw").path, moved);
    const result = await rebaseImage(copy, { backing: "moved.raw", backingFormat: "raw" });
    assert.equal(result.to, "moved.raw");
    assert.ok(result.compared >= 2 * 2 ** 20, `${result.compared}`);
    assert.equal(JSON.parse(qemuImg("info", "--output=json", copy))["full-backing-filename"], moved);
    assert.match(qemuImg("compare", "-f", format, "-F", format, path, copy), /identical/);
  }
});

test("rebase refuses what cannot be right, unless it is forced", async () => {
  const { path } = zooImage("qcow2 over raw");
  const copy = place("wrong.qcow2");
  await copyFile(path, copy);
  const rebase = (backing: string | undefined, force = false): Promise<{ warnings: readonly string[] }> =>
    rebaseImage(copy, { backing, backingFormat: "raw", force });
  const other = place("other.raw");
  await copyFile(zooImage("raw").path, other);
  qemuIo(other, ["write -P 99 12345 1"], "-f", "raw");
  await assert.rejects(rebase("other.raw"), {
    code: "refused",
    message: /differs from the old one, '.*raw.raw', at 12345/,
  });
  await assert.rejects(rebase("gone.raw"), { code: "not-found" });
  zooImage("raw short");
  await assert.rejects(rebase("raw-short.raw"), { code: "refused", message: /has 2560000 bytes and the old one/ });
  await assert.rejects(rebase(undefined), { code: "refused", message: /missing here: fetch them with stream/ });
  assert.equal((await imageInfo(copy))["backing-filename"], zooImage("raw").path);
  assert.match((await rebase("other.raw", true)).warnings.join(), /differs from the old one/);
  assert.equal((await imageInfo(copy))["backing-filename"], "other.raw");
  assert.match((await rebase("gone.raw", true)).warnings.join(), /gone.raw' cannot be read: nothing was compared/);
  await assert.rejects(rebaseImage(zooImage("raw").path, { format: "raw", backing: other }), {
    code: "invalid-argument",
  });
});

test("rebase, when the old backing file is gone: what was fetched agrees, and it says when nothing does", async () => {
  const gone = place("gone.raw");
  qemuImg("create", "-q", "-f", "raw", gone, "4M");
  qemuIo(gone, ["write -P 7 0 4M"], "-f", "raw");
  const path = place("orphan.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", gone, "-F", "raw", path);
  const elsewhere = place("elsewhere.raw");
  await rename(gone, elsewhere);
  const nothing = await rebaseImage(path, { backing: elsewhere, backingFormat: "raw" });
  assert.equal(nothing.compared, 0);
  assert.match(nothing.warnings.join(), /gone.raw' of .* is not there.*cannot be read, and nothing in/s);
  qemuIo(path, ["write -P 7 1M 1M"]);
  await rebaseImage(path, { backing: gone, backingFormat: "raw", force: true });
  const { compared } = await rebaseImage(path, { backing: elsewhere, backingFormat: "raw" });
  assert.equal(compared, 64 * 65536);
});

test("an image that stands alone gets no backing file by mistake", async () => {
  const path = place("alone.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", path, "4M");
  const options = { backing: zooImage("raw").path, backingFormat: "raw" as const };
  await assert.rejects(rebaseImage(path, options), {
    code: "refused",
    message: /stands alone and reads as zeroes at 0/,
  });
  await rebaseImage(path, { ...options, force: true });
  await rebaseImage(path, { backing: undefined, force: true });
  assert.equal((await imageInfo(path))["backing-filename"], undefined);
});
