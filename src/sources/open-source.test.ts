import assert from "node:assert/strict";
import { link, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FakeNbdServer } from "../../test/support/fake-nbd-server.ts";
import { openSource, parseReference, sourceIdentity } from "./open-source.ts";

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
    assert.deepEqual(parseReference(reference), { kind: "file", path });
  }
});

test("NBD URIs name exports, other schemes are refused by name", () => {
  for (const uri of ["nbd://host/x", "NBDS://host", "nbd+unix:///x?socket=y"]) {
    assert.deepEqual(parseReference(uri), { kind: "nbd", uri });
  }
  assert.throws(() => parseReference("nbd:localhost:10809"), { code: "invalid-argument", message: /two slashes/ });
  for (const reference of ["ftp://host/x", "json:{}"]) {
    const scheme = reference.slice(0, reference.indexOf(":"));
    assert.throws(() => parseReference(reference), {
      code: "unsupported",
      message: new RegExp(`^${scheme}: sources are not supported yet`),
    });
  }
  assert.throws(() => parseReference("file://elsewhere/a"), {
    code: "invalid-argument",
    message: /names no file of this machine/,
  });
});

test("a source is known by any of its names", async () => {
  const directory = await mkdtemp(join(tmpdir(), "streamdisk-source-"));
  try {
    const [one, two] = [join(directory, "one"), join(directory, "two")];
    await writeFile(one, Buffer.alloc(512));
    await link(one, two);
    await using file = await openSource(one, { readOnly: true });
    assert.equal(await sourceIdentity(file), await sourceIdentity(`file://${two}`));
    await assert.rejects(sourceIdentity(join(directory, "none")), { code: "not-found" });

    await using server = await FakeNbdServer.start();
    await using disk = await openSource(server.uri, { readOnly: true });
    assert.equal(disk.readOnly, true);
    assert.equal(await sourceIdentity(disk), await sourceIdentity(server.uri.replace("nbd+unix", "NBD+UNIX")));
    assert.equal(await sourceIdentity("nbds://me@h/%64?tls-type=psk"), await sourceIdentity("nbds://h:10809/d"));
    assert.notEqual(await sourceIdentity("nbd://h/d"), await sourceIdentity("nbd://h/e"));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
