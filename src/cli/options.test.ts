import assert from "node:assert/strict";
import { test } from "node:test";
import { allowed, moreFormatOptions, newFormat, parseFormat } from "./options.ts";

test("-o is qemu-img's list and may be repeated", () => {
  assert.deepEqual(moreFormatOptions("cluster_size=64K,lazy_refcounts"), { cluster_size: "64K", lazy_refcounts: "on" });
  assert.deepEqual(moreFormatOptions("a=1,b=2", { a: "0", c: "3" }), { a: "1", c: "3", b: "2" });
  assert.deepEqual(moreFormatOptions("backing_file=a,,b=c"), { backing_file: "a,b=c" });
  assert.deepEqual(moreFormatOptions("a="), { a: "" });
  for (const text of ["", "=1", "a=1,", ",a"]) {
    assert.throws(() => moreFormatOptions(text), { code: "invalid-argument", message: /write name=value,name=value/ });
  }
});

test("names that objects have of themselves are plain options", () => {
  const options = moreFormatOptions("__proto__=1,constructor=2");
  assert.deepEqual(Object.keys(options), ["__proto__", "constructor"]);
});

test("a format is one that is known", () => {
  assert.equal(parseFormat("qed"), "qed");
  assert.throws(() => parseFormat("QCOW2"), { code: "invalid-argument", message: /'QCOW2'.*raw, qcow2 or qed/ });
});

test("a new image's format is given, or its extension leaves no doubt", () => {
  assert.equal(newFormat("./vm.qcow2", undefined), "qcow2");
  assert.equal(newFormat("./VM.QED", undefined), "qed");
  assert.equal(newFormat("vm.qcow2", "raw"), "raw");
  for (const path of ["vm.img", "./vm", "a.qcow2/vm"]) {
    assert.throws(() => newFormat(path, undefined), { code: "invalid-argument", message: /--format/ });
  }
});

test("what the user names is allowed, and 'any' is everything", () => {
  assert.deepEqual(allowed({}), []);
  assert.deepEqual(allowed({ allowBacking: ["/srv"] }, "b.qcow2"), ["/srv", "b.qcow2"]);
  assert.equal(allowed({ allowBacking: "any" }, "b.qcow2"), "any");
});
