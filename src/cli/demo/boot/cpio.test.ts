import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { type ArchiveEntry, cpioArchive } from "./cpio.ts";

test("another cpio unpacks it: directories, files of any length, in their order", () => {
  const files = ["", "a", "four", "fives", "#!/bin/sh\n"];
  const entries: ArchiveEntry[] = [
    { name: "bin" },
    ...files.map((text, index) => ({ name: `bin/${"n".repeat(index + 1)}`, data: Buffer.from(text) })),
  ];
  const archive = cpioArchive(entries);
  const list = spawnSync("busybox", ["cpio", "-t"], { input: archive, encoding: "utf8" });
  assert.deepEqual(list.stdout.trim().split("\n"), ["bin", "bin/n", "bin/nn", "bin/nnn", "bin/nnnn", "bin/nnnnn"]);
  for (const { name, data } of entries) {
    if (data === undefined) continue;
    const { stdout } = spawnSync("busybox", ["cpio", "-i", "--to-stdout", name], { input: archive });
    assert.equal(`${stdout}`, `${data}`, name);
  }
});
