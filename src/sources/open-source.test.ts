import assert from "node:assert/strict";
import { test } from "node:test";
import { referencePath } from "./open-source.ts";

test("paths and file URIs name files", () => {
  for (const [reference, path] of [
    ["disk.qcow2", "disk.qcow2"],
    ["/a/b c.raw", "/a/b c.raw"],
    ["./nbd:x", "./nbd:x"],
    ["/a:b", "/a:b"],
    ["file:disk.qcow2", "disk.qcow2"],
    ["file:/a/b", "/a/b"],
    ["file:///a/b%20c", "/a/b c"],
    ["FILE:///a", "/a"],
  ] as const) {
    assert.equal(referencePath(reference), path);
  }
});

test("other schemes are refused by name", () => {
  for (const reference of ["nbd://host/x", "nbd+unix:///x?socket=y", "https://host/x", "json:{}"]) {
    const scheme = reference.slice(0, reference.indexOf(":"));
    assert.throws(() => referencePath(reference), {
      code: "unsupported",
      message: new RegExp(`^${scheme.replace("+", "\\+")}: sources are not supported yet`),
    });
  }
  assert.throws(() => referencePath("file://elsewhere/a"), {
    code: "invalid-argument",
    message: /names no file of this machine/,
  });
});
