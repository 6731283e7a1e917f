import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../test/support/memory-node.ts";
import { probeFormat } from "./probe.ts";

/** A file with `text` (latin-1) at an offset, which may count from the end. */
function withBytes(text: string, offset = 0, length = 70_000): MemoryNode {
  const bytes = Buffer.alloc(length);
  bytes.write(text, offset < 0 ? length + offset : offset, "latin1");
  return MemoryNode.of(bytes, { name: "x.img" });
}

test("the formats that are read", async () => {
  assert.equal(await probeFormat(withBytes("QED\0")), "qed");
  assert.equal(await probeFormat(withBytes("QFI\xfb\0\0\0\x02")), "qcow2");
  assert.equal(await probeFormat(withBytes("QFI\xfb\0\0\0\x03")), "qcow2");
  assert.equal(await probeFormat(withBytes("QFI\xfb\0\0\0\x63")), "qcow2", "opening says what is wrong with it");
});

test("what a guest wrote to the end of an image does not count", async () => {
  for (const [magic, format] of [
    ["QFI\xfb\0\0\0\x03", "qcow2"],
    ["QED\0", "qed"],
  ] as const) {
    const file = withBytes(magic);
    await file.write(file.length - 512, Buffer.from("conectix"));
    assert.equal(await probeFormat(file), format);
  }
});

test("a header that was cut off is no raw disk", async () => {
  assert.equal(await probeFormat(MemoryNode.of(Buffer.from("QED\0"))), "qed");
  assert.equal(await probeFormat(MemoryNode.of(Buffer.from("QFI\xfb", "latin1"))), "qcow2");
});

test("anything else is raw", async () => {
  for (const file of [
    new MemoryNode(0),
    new MemoryNode(1),
    new MemoryNode(513),
    withBytes("\xeb\x3c\x90MSDOS5.0"),
    withBytes("QED "),
  ]) {
    assert.equal(await probeFormat(file), "raw");
  }
  assert.equal(await probeFormat(withBytes("conectix", 512)), "raw", "only the first and the last sector count");
});

test("foreign formats are refused by name", async () => {
  const cases: [string, number, RegExp][] = [
    ["QFI\xfb\0\0\0\x01", 0, /a qcow \(version 1\) image/],
    ["KDMV", 0, /a VMDK image/],
    ["COWD", 0, /a VMDK image/],
    ["# Disk DescriptorFile\n", 0, /a VMDK image/],
    ["\x7f\x10\xda\xbe", 64, /a VDI image/],
    ["vhdxfile", 0, /a VHDX image/],
    ["conectix", 0, /a VHD \(vpc\) image/],
    ["conectix", -512, /a VHD \(vpc\) image/],
    ["LUKS\xba\xbe\0\x01", 0, /a LUKS image/],
    ["WithoutFreeSpace", 0, /a Parallels image/],
    ["WithouFreSpacExt", 0, /a Parallels image/],
    ["Bochs Virtual HD Image", 0, /a Bochs image/],
    ["koly", -512, /a DMG image/],
  ];
  for (const [magic, offset, message] of cases) {
    await assert.rejects(probeFormat(withBytes(magic, offset)), { code: "unsupported", message }, magic);
  }
});
