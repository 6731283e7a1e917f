import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, type TestContext, test } from "node:test";
import { temporaryDirectory } from "../../../../test/support/cli.ts";
import { fetchBootParts } from "./fetch-parts.ts";

const KERNEL = "linux-image-9.1-cloud-amd64";

afterEach(() => {
  process.env["APT_CONFIG"] = "";
});

/** A package of these files, as its line in the list of packages has it. */
function makePackage(repository: string, name: string, files: Record<string, string | Buffer>, more = ""): string {
  const tree = join(repository, `${name}.tree`);
  const control = `Package: ${name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\n${more}`;
  for (const [path, content] of Object.entries({ "DEBIAN/control": `${control}Description: x\n`, ...files })) {
    mkdirSync(join(tree, path, ".."), { recursive: true });
    writeFileSync(join(tree, path), content);
  }
  const file = join(repository, `${name}.deb`);
  assert.equal(spawnSync("dpkg-deb", ["-b", "-Znone", tree, file]).status, 0);
  const sum = createHash("sha256").update(readFileSync(file)).digest("hex");
  return `${control}Filename: ./${name}.deb\nSize: ${statSync(file).size}\nSHA256: ${sum}\nDescription: x\n`;
}

/** A machine whose packages come from a directory, and of which nothing is known yet: it has no lists. */
function scene(t: TestContext): { repository: string; target: string } {
  const directory = temporaryDirectory(t);
  const [repository = "", target = "", state = ""] = ["repository", "target", "state"].map((name) => {
    mkdirSync(join(directory, name, "lists/partial"), { recursive: true });
    return join(directory, name);
  });
  const sources = join(directory, "sources.list");
  writeFileSync(sources, `deb [trusted=yes arch=amd64] file:${repository} ./\n`);
  writeFileSync(join(state, "status"), "");
  const config = join(directory, "apt.conf");
  const settings = [
    ["Dir::Etc::SourceList", sources],
    ["Dir::Etc::SourceParts", "/dev/null"],
    ["Dir::State::Lists", join(state, "lists")],
    ["Dir::State::Status", join(state, "status")],
    ["Dir::Cache", state],
    ["APT::Architecture", "amd64"],
  ];
  writeFileSync(config, settings.map(([name, value]) => `${name} "${value}";\n`).join(""));
  process.env["APT_CONFIG"] = config;
  return { repository, target };
}

test("kernel and busybox come as packages, with lists of their own where this machine has none", async (t) => {
  const { repository, target } = scene(t);
  const packages = [
    makePackage(repository, "linux-image-cloud-amd64", {}, `Depends: ${KERNEL}\n`),
    makePackage(repository, KERNEL, {
      "boot/vmlinuz-9.1-cloud-amd64": "a kernel",
      "lib/modules/9.1-cloud-amd64/kernel/drivers/block/virtio_blk.ko": "a module",
    }),
    makePackage(repository, "busybox-static", { "bin/busybox": "a program" }),
  ];
  writeFileSync(join(repository, "Packages"), packages.join("\n"));
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
