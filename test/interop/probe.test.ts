/** What qemu-img makes is told apart by its bytes. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { probeFormat } from "../../src/formats/probe.ts";
import { MemoryNode } from "../support/memory-node.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-probe-"));
after(() => rmSync(directory, { recursive: true }));

async function made(format: string, ...options: string[]): Promise<MemoryNode> {
  const path = join(directory, "x.img");
  execFileSync("qemu-img", ["create", "-q", "-f", format, ...options, path, "1M"], { stdio: "pipe" });
  return MemoryNode.load(path);
}

test("the formats that are read", async () => {
  assert.equal(await probeFormat(await made("raw")), "raw");
  assert.equal(await probeFormat(await made("qed")), "qed");
  assert.equal(await probeFormat(await made("qcow2")), "qcow2");
  assert.equal(await probeFormat(await made("qcow2", "-o", "compat=0.10")), "qcow2");
});

test("foreign formats are refused by name", async () => {
  const cases: [RegExp, string, ...string[]][] = [
    [/qcow \(version 1\)/, "qcow"],
    [/VMDK/, "vmdk"],
    [/VMDK/, "vmdk", "-o", "subformat=monolithicFlat"],
    [/VDI/, "vdi"],
    [/VHDX/, "vhdx"],
    [/VHD \(vpc\)/, "vpc"],
    [/VHD \(vpc\)/, "vpc", "-o", "subformat=fixed"],
    [/Parallels/, "parallels"],
  ];
  for (const [message, format, ...options] of cases) {
    await assert.rejects(probeFormat(await made(format, ...options)), { code: "unsupported", message }, format);
  }
});
