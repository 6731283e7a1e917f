import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { StreamdiskError } from "../errors/index.ts";
import { diskName, diskTarget, filePath, imageReference, parseTarget, placeForDaemon, type Target } from "./targets.ts";

const never = () => false;
const always = () => true;

const code = (expected: string, ...words: RegExp[]) => {
  return (error: unknown) => {
    assert(error instanceof StreamdiskError, String(error));
    assert.equal(error.code, expected);
    for (const word of words) assert.match(error.message, word);
    return true;
  };
};

test("one table decides what a name means", () => {
  const rows: [string, Target][] = [
    ["./vm1", { kind: "file", path: "./vm1" }],
    ["../vm1", { kind: "file", path: "../vm1" }],
    ["/srv/vm1", { kind: "file", path: "/srv/vm1" }],
    ["images/vm1", { kind: "file", path: "images/vm1" }],
    ["./a:b", { kind: "file", path: "./a:b" }],
    ["vm1.qcow2", { kind: "file", path: "vm1.qcow2" }],
    ["VM1.QED", { kind: "file", path: "VM1.QED" }],
    ["disk.img", { kind: "file", path: "disk.img" }],
    ["file:vm1", { kind: "file", path: "vm1" }],
    ["file:///srv/vm%201", { kind: "file", path: "/srv/vm 1" }],
    ["disk:vm1.qcow2", { kind: "disk", name: "vm1.qcow2" }],
    ["nbd://host/export", { kind: "uri", uri: "nbd://host/export" }],
    ["nbd+unix:///e?socket=/s", { kind: "uri", uri: "nbd+unix:///e?socket=/s" }],
    ["https://images/debian.qcow2", { kind: "uri", uri: "https://images/debian.qcow2" }],
    ["vm1:vda", { kind: "domain", name: "vm1:vda", domain: "vm1", device: "vda" }],
    ["vm1:virtio-disk0", { kind: "domain", name: "vm1:virtio-disk0", domain: "vm1", device: "virtio-disk0" }],
    ["vm1:/srv/a:b.qcow2", { kind: "domain", name: "vm1:/srv/a:b.qcow2", domain: "vm1", device: "/srv/a:b.qcow2" }],
    ["vm1:srv/a.qcow2", { kind: "file", path: "vm1:srv/a.qcow2" }],
    ["./vm1:/srv/a", { kind: "file", path: "./vm1:/srv/a" }],
    ["vm1", { kind: "disk", name: "vm1" }],
    ["a:b:c", { kind: "disk", name: "a:b:c" }],
  ];
  for (const [text, target] of rows) assert.deepEqual(parseTarget(text, never), target, text);
});

test("what is a file by its form is one whether or not it is there", () => {
  for (const text of ["./vm1", "vm1.qcow2", "file:vm1"]) {
    assert.equal(parseTarget(text, always).kind, "file", text);
  }
});

test("an ambiguous name is an error that lists both", () => {
  assert.throws(
    () => parseTarget("vm1", always),
    code("invalid-argument", /ambiguous/, /\.\/vm1/, /file:vm1/, /disk:vm1/),
  );
  assert.throws(
    () => parseTarget("vm1:vda", always),
    code("invalid-argument", /ambiguous/, /\.\/vm1:vda/, /domain 'vm1'/),
  );
  assert.throws(() => parseTarget("vm1:/srv/a", always), code("invalid-argument", /ambiguous/, /\.\/vm1:\/srv\/a/));
  assert.throws(() => parseTarget("vm1:a.qcow2", never), code("invalid-argument", /ambiguous/, /\.\/vm1:a\.qcow2/));
});

test("names of nothing are refused", () => {
  assert.throws(() => parseTarget("", never), code("invalid-argument", /empty/));
  assert.throws(() => parseTarget("file:", never), code("invalid-argument", /'file:'/));
  assert.throws(() => parseTarget("file://elsewhere/x", never), code("invalid-argument", /file:\/\/elsewhere/));
});

test("what is no file is refused where a file is needed, and the message says what to write", () => {
  assert.equal(filePath("./no-such-name"), "./no-such-name");
  assert.throws(() => filePath("no-such-name"), code("unsupported", /disk of the daemon/, /\.\/no-such-name/));
  assert.throws(() => filePath("no-such:vda"), code("unsupported", /domain 'no-such'/));
  assert.throws(() => filePath("nbd://localhost/x"), code("unsupported", /is a URI, and this needs a file/));
  assert.equal(imageReference("nbd://localhost/x"), "nbd://localhost/x");
  assert.equal(imageReference("./vm1"), "./vm1");
  assert.equal(filePath("file:nbd:x"), "./nbd:x");
});

test("a disk is named with or without its prefix", () => {
  assert.equal(diskName("vm1"), "vm1");
  assert.equal(diskName("disk:vm1"), "vm1");
  assert.throws(() => diskName("disk:"), code("invalid-argument", /'disk:'/));
});

test("a place for the daemon is a whole path where it lies here, a URI as it stands, or a bare name", () => {
  assert.equal(placeForDaemon("https://h/x", always), "https://h/x");
  assert.equal(placeForDaemon("./x", never), join(process.cwd(), "x"));
  assert.equal(placeForDaemon("/a/../x", never), "/x");
  assert.equal(placeForDaemon("x.raw", always), join(process.cwd(), "x.raw"));
  assert.equal(placeForDaemon("x.raw", never), "x.raw");
});

test("where only a disk can be meant nothing is a file", () => {
  assert.deepEqual(diskTarget("vm1.qcow2"), { kind: "disk", name: "vm1.qcow2" });
  assert.deepEqual(diskTarget("disk:vm1"), { kind: "disk", name: "vm1" });
  assert.deepEqual(diskTarget("web:vda"), { kind: "domain", name: "web:vda", domain: "web", device: "vda" });
  assert.deepEqual(diskTarget("web:/srv/a.qcow2"), {
    kind: "domain",
    name: "web:/srv/a.qcow2",
    domain: "web",
    device: "/srv/a.qcow2",
  });
});
