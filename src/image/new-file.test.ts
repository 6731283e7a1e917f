import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { openFile } from "../sources/index.ts";
import { createImage, imageInfo, removeHalfMade, resizeImage } from "./index.ts";

let home: string;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "streamdisk-new-"));
});
after(() => rm(home, { recursive: true, force: true }));

test("an image that replaces another keeps its permissions", async () => {
  const path = join(home, "private.qcow2");
  await writeFile(path, "something");
  await chmod(path, 0o600);
  await createImage(path, { format: "qcow2", size: 2 ** 20, force: true });
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.equal((await imageInfo(path)).format, "qcow2");
});

test("what fails leaves nothing, under no name", async () => {
  const before = await readdir(home);
  const path = join(home, "never.qcow2");
  await assert.rejects(createImage(path, { format: "qcow2", size: 1, options: { nonsense: "on" } }));
  await assert.rejects(createImage(join(home, "no", "such.qcow2"), { format: "qcow2", size: 1 }), {
    code: "not-found",
  });
  assert.deepEqual(await readdir(home), before);
});

test("a new image does not take the place of one that came to be there meanwhile", async () => {
  const path = join(home, "race.qcow2");
  const results = await Promise.allSettled(
    Array.from({ length: 4 }, () => createImage(path, { format: "qcow2", size: 2 ** 20 })),
  );
  assert.equal(results.filter(({ status }) => status === "fulfilled").length, 1);
  assert.equal((await readdir(home)).filter((name) => name.includes("race")).length, 1);
});

test("of what is half made nothing is taken away that a process is making, or that is another's", async () => {
  const place = join(home, "made.qcow2");
  const [dead, living] = ["0123456789abcdef", "fedcba9876543210"].map((id) => `${place}.streamdisk-${id}.new`) as [
    string,
    string,
  ];
  const others = [`${place}.old.new`, join(home, "other-made.qcow2.streamdisk-0123456789abcdef.new")];
  for (const path of [dead, living, ...others]) await writeFile(path, "");
  await using _making = await openFile(living, { readOnly: false });
  await removeHalfMade(place);
  const left = (await readdir(home)).filter((name) => name.endsWith(".new")).sort();
  assert.deepEqual(left, [...others, living].map((path) => basename(path)).sort());
});

test("a size is rounded up to whole sectors", async () => {
  for (const format of ["qcow2", "qed", "raw"] as const) {
    const path = join(home, `sectors.${format}`);
    await createImage(path, { format, size: 512 });
    assert.equal((await resizeImage(path, 1000)).to, 1024);
    assert.equal((await imageInfo(path))["virtual-size"], 1024);
  }
});
