import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { qemuImg } from "../../test/support/qemu.ts";
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
  assert.match(told("vm1.qed") ?? "", /left alone: there is another image of that name/);
  assert.match(told("broken.qcow2") ?? "", /left alone: .*broken\.qcow2/);
  assert.match(told("plain.raw") ?? "", /left alone: it is not called/);
  assert.match(told("vm2.qcow2") ?? "", /adopted as the disk 'vm2'/);
});
