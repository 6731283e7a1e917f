import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { qemuImg } from "../../test/support/qemu.ts";
import { aDisk } from "../../test/support/store-conformance.ts";
import { adoptImages } from "./adopt-images.ts";

test("images are adopted under their names; backing files, raw files and what is no image are left alone", async (t) => {
  const directory = temporaryDirectory(t);
  const imageDirectory = join(directory, "images");
  mkdirSync(imageDirectory);
  mkdirSync(join(imageDirectory, "sub.qcow2"));
  const at = (name: string) => join(imageDirectory, name);
  qemuImg("create", "-q", "-f", "qcow2", at("base.qcow2"), "1M");
  qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", at("vm1.qcow2"));
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", "nbd://gone.example/x", "-F", "raw", at("vm2.qcow2"), "1M");
  qemuImg("create", "-q", "-f", "qed", at("vm3.qed"), "1M");
  qemuImg("create", "-q", "-f", "qed", at("vm1.qed"), "1M");
  writeFileSync(at("plain.raw"), Buffer.alloc(512));
  writeFileSync(at("broken.qcow2"), "no image");
  writeFileSync(at(".vm4.qcow2"), "half made");
  symlinkSync(at("vm3.qed"), at("link.qed"));

  await using store = new MemoryStore();
  const notes = await adoptImages(store, { imageDirectory, socketDirectory: "/run/s" });
  const disks = await store.disks();
  assert.deepEqual(
    disks.map(({ name, settings, address }) => [name, settings.image, settings.format, address]),
    [
      ["vm1", at("vm1.qcow2"), "qcow2", { kind: "unix", path: "/run/s/vm1.sock" }],
      ["vm2", at("vm2.qcow2"), "qcow2", { kind: "unix", path: "/run/s/vm2.sock" }],
      ["vm3", at("vm3.qed"), "qed", { kind: "unix", path: "/run/s/vm3.sock" }],
    ],
  );
  assert(disks.every(({ ownsFile, state }) => !ownsFile && state === "ready"));
  const told = (name: string) => notes.find((note) => note.startsWith(`'${at(name)}'`));
  assert.match(told("base.qcow2") ?? "", /left alone: it is the backing file/);
  assert.match(told("vm1.qed") ?? "", /left alone: there is another disk of that name/);
  assert.match(told("broken.qcow2") ?? "", /left alone: .*broken\.qcow2/);
  assert.match(told("plain.raw") ?? "", /left alone: it is not called/);
  assert.match(told("vm2.qcow2") ?? "", /adopted as the disk 'vm2'/);
});

test("of some that were lost only those are adopted, with their ids, and what is a disk stays as it is", async (t) => {
  const directory = temporaryDirectory(t);
  const at = (name: string) => join(directory, name);
  for (const name of ["vm1", "vm2", "vm3", "vm4"]) qemuImg("create", "-q", "-f", "qcow2", at(`${name}.qcow2`), "1M");
  await using store = new MemoryStore();
  const kept = aDisk("vm4@00000001", "vm4");
  await store.putDisk({ ...kept, settings: { ...kept.settings, image: at("vm4.qcow2") } });
  await store.putDisk({ ...aDisk("x@1", "x"), settings: { ...kept.settings, image: "/x", backing: at("vm2.qcow2") } });
  const lost = new Map([
    ["vm1", "vm1@0123abcd"],
    ["vm2", undefined],
    ["gone", undefined],
  ]);
  const notes = await adoptImages(store, { imageDirectory: directory, socketDirectory: "/run/s", lost });
  const names = (await store.disks()).map(({ id, name }) => [id, name]);
  assert.deepEqual(names, [
    ["vm1@0123abcd", "vm1"],
    ["vm4@00000001", "vm4"],
    ["x@1", "x"],
  ]);
  const told = [
    /adopted as the disk 'vm1'/,
    /vm2\.qcow2' was left alone: it is the backing file/,
    /'vm2' was/,
    /'gone' was/,
  ];
  for (const [index, sentence] of told.entries()) assert.match(notes[index] ?? "", sentence);
  assert.equal(notes.length, told.length);
});
