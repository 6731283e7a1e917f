import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, type TestContext, test } from "node:test";
import { AptRepository } from "../../../../test/support/apt-repository.ts";
import { temporaryDirectory } from "../../../../test/support/cli.ts";
import { fetchBootParts } from "./fetch-parts.ts";

afterEach(() => {
  process.env["APT_CONFIG"] = "";
});

function scene(t: TestContext): { repository: AptRepository; target: string } {
  const directory = temporaryDirectory(t);
  const repository = new AptRepository(directory);
  process.env["APT_CONFIG"] = repository.config;
  const target = join(directory, "target");
  mkdirSync(target);
  return { repository, target };
}

test("kernel and busybox come as packages, with lists of their own where this machine has none", async (t) => {
  const { repository, target } = scene(t);
  const module = "lib/modules/9.1-cloud-amd64/kernel/drivers/block/virtio_blk.ko";
  repository.offer(
    { "boot/vmlinuz-9.1-cloud-amd64": "a kernel", [module]: "a module" },
    { "bin/busybox": "a program" },
  );
  const parts = await fetchBootParts(target, new AbortController().signal);
  assert.equal(readFileSync(parts.kernel, "utf8"), "a kernel");
  assert.equal(readFileSync(parts.busybox, "utf8"), "a program");
  assert.equal(readFileSync(join(parts.modules, "kernel/drivers/block/virtio_blk.ko"), "utf8"), "a module");
  for (const path of Object.values(parts)) assert(path.startsWith(target), path);
});

test("what is not to be had is said in one line", async (t) => {
  const { target } = scene(t);
  await assert.rejects(fetchBootParts(target, new AbortController().signal), (error: Error & { code?: string }) => {
    assert.equal(error.code, "not-found");
    assert.match(error.message, /^The packages 'linux-image-cloud-amd64' and 'busybox-static' cannot be had: [^\n]+$/);
    return true;
  });
});
