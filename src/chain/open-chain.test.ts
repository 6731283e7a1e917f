import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, before, test } from "node:test";
import { FakeNbdServer } from "../../test/support/fake-nbd-server.ts";
import { createFormat, type FormatName } from "../formats/index.ts";
import { openFile } from "../sources/index.ts";
import { openChain } from "./index.ts";

let home: string;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "streamdisk-chain-"));
  for (const name of ["images", "elsewhere", "images/below"]) await mkdir(join(home, name));
});
after(() => rm(home, { recursive: true, force: true }));

const SIZE = 65536;

async function make(
  path: string,
  backing?: string,
  backingFormat?: string,
  format: FormatName = "qed",
): Promise<string> {
  const place = join(home, path);
  await rm(place, { force: true });
  await using file = await openFile(place, { readOnly: false, create: true });
  const reference = backing === undefined ? undefined : { reference: backing, format: backingFormat };
  await createFormat(format, file, { size: SIZE, ...(reference && { backing: reference }) });
  return place;
}

async function raw(path: string, byte = 1): Promise<string> {
  const place = join(home, path);
  await writeFile(place, Buffer.alloc(SIZE, byte));
  return place;
}

test("reads through a chain of mixed formats, relative and absolute, with `file:` understood", async () => {
  const base = await raw("images/base.raw", 7);
  await make("images/below/middle.qed", "../base.raw", "raw");
  await make("images/upper.qed", "below/middle.qed", "qed");
  const top = await make("images/top.qed", `file:${join(home, "images/upper.qed")}`, "qed");
  await using chain = await openChain({ file: top });
  assert.deepEqual(
    chain.layers.map(({ path, format }) => [relative(home, path), format]),
    [
      ["images/top.qed", "qed"],
      ["images/upper.qed", "qed"],
      ["images/below/middle.qed", "qed"],
      ["images/base.raw", "raw"],
    ],
  );
  assert.equal(chain.layers.at(-1)?.path, base);
  const bytes = Buffer.alloc(16);
  await chain.node.read(0, bytes);
  assert.ok(bytes.every((byte) => byte === 7));
});

test("a chain of twelve opens, one of seventy does not", async () => {
  await raw("images/0.raw");
  await make("images/1.qed", "0.raw", "raw");
  for (let i = 2; i <= 70; i++) await make(`images/${i}.qed`, `${i - 1}.qed`, "qed");
  await using chain = await openChain({ file: join(home, "images/11.qed"), readOnly: true });
  assert.equal(chain.layers.length, 12);
  await assert.rejects(openChain({ file: join(home, "images/70.qed"), readOnly: true }), {
    code: "invalid-image",
    message: /deeper than 64 images/,
  });
  // Everything was let go of: the layers can be opened for writing.
  await (await openChain({ file: join(home, "images/69.qed"), backing: null })).close();
});

test("files outside the image's directory are refused by name, and allowed by path", async () => {
  const outside = await raw("elsewhere/base.raw");
  const top = await make("images/top.qed", outside, "raw");
  await assert.rejects(openChain({ file: top }), {
    code: "refused",
    message: `'${top}' names '${outside}' as its backing file, which lies outside its own directory ('${outside}'): allow it with --allow-backing '${outside}', in a program with allowBacking, if you trust the image`,
  });
  for (const allowBacking of [[outside], [join(home, "elsewhere")], "any"] as const) {
    await (await openChain({ file: top }, { allowBacking })).close();
  }
  // A directory that begins with the same letters is another one.
  await assert.rejects(openChain({ file: top }, { allowBacking: [join(home, "else")] }), { code: "refused" });
});

test("neither dots nor a symbolic link lead outside", async () => {
  const outside = await raw("elsewhere/base.raw");
  const dots = await make("images/dots.qed", "../elsewhere/base.raw", "raw");
  await symlink(outside, join(home, "images/link.raw"));
  const link = await make("images/link.qed", "link.raw", "raw");
  for (const file of [dots, link]) {
    await assert.rejects(openChain({ file }), { code: "refused" });
    await (await openChain({ file }, { allowBacking: [outside] })).close();
  }
});

test("the system's secrets are refused whether they are there or not", async () => {
  for (const secret of ["/etc/shadow", "/etc/no-such-file", "/proc/self/environ"]) {
    const top = await make("images/secret.qed", secret, "raw");
    await assert.rejects(openChain({ file: top }), { code: "refused", message: new RegExp(secret) });
  }
});

test("an image below another may only name what the top may", async () => {
  const outside = await raw("elsewhere/base.raw");
  await make("elsewhere/middle.qed", "base.raw", "raw");
  const top = await make("images/top.qed", "../elsewhere/middle.qed", "qed");
  const allowBacking = [join(home, "elsewhere/middle.qed")];
  await assert.rejects(openChain({ file: top }, { allowBacking }), {
    code: "refused",
    message: /elsewhere\/middle.qed/,
  });
  await (await openChain({ file: top }, { allowBacking: [...allowBacking, outside] })).close();
});

test("an image named through a symbolic link finds what lies beside the link and beside itself", async () => {
  await raw("images/base.raw");
  const top = await make("images/top.qed", "base.raw", "raw");
  await mkdir(join(home, "links"));
  await symlink(top, join(home, "links/disk.qed"));
  // As with QEMU the reference is relative to the name that was used.
  await assert.rejects(openChain({ file: join(home, "links/disk.qed") }), { code: "not-found" });
  await symlink(join(home, "images/base.raw"), join(home, "links/base.raw"));
  await (await openChain({ file: join(home, "links/disk.qed") })).close();
});

test("an image over an export of an NBD server", async () => {
  await using server = await FakeNbdServer.start({ size: SIZE });
  const top = await make("images/over-nbd.qed", server.uri, "raw");
  await assert.rejects(openChain({ file: top }), {
    code: "refused",
    message: `'${top}' names '${server.uri}' as its backing file: allow it with --allow-backing '${server.uri}', in a program with allowBacking, if you trust the image`,
  });
  await assert.rejects(openChain({ file: top }, { allowBacking: [home, "nbd+unix:///"] }), { code: "refused" });
  assert.deepEqual(server.peers, []);
  for (const allowBacking of [[server.uri], "any"] as const) {
    await using chain = await openChain({ file: top }, { allowBacking });
    assert.deepEqual(
      chain.layers.map(({ path, format, file }) => [path, format, file?.path]),
      [
        [top, "qed", top],
        [server.uri, "raw", undefined],
      ],
    );
    const bytes = Buffer.alloc(1000);
    await chain.node.read(500, bytes);
    assert.deepEqual(bytes, server.content.subarray(500, 1500));
  }
  assert.deepEqual(server.open, []);
  await server.stop();
  await assert.rejects(openChain({ file: top }, { allowBacking: "any" }), { code: "source-lost" });
});

test("an image on an NBD server names nothing here unless it is allowed to", async () => {
  const secret = await raw("elsewhere/base.raw", 5);
  const onServer = async (reference: string): Promise<FakeNbdServer> => {
    const image = await make("images/remote.qed", reference, "raw");
    const server = await FakeNbdServer.start();
    server.content = await readFile(image);
    return server;
  };
  await using server = await onServer(secret);
  await assert.rejects(openChain({ file: server.uri, readOnly: true }), {
    code: "refused",
    message: /elsewhere\/base.raw/,
  });
  await using chain = await openChain({ file: server.uri, readOnly: true }, { allowBacking: [secret] });
  const bytes = Buffer.alloc(10);
  await chain.node.read(500, bytes);
  assert.deepEqual(bytes, Buffer.alloc(10, 5));
  await using relative = await onServer("base.raw");
  await assert.rejects(openChain({ file: relative.uri, readOnly: true }, { allowBacking: "any" }), {
    code: "unsupported",
    message: /'base.raw' is relative, and a server's exports and objects lie in no directory/,
  });
  await using self = await onServer("nbd://x");
  self.content = await readFile(await make("images/remote.qed", self.uri, "qed"));
  await assert.rejects(openChain({ file: self.uri, readOnly: true }, { allowBacking: "any" }), {
    code: "invalid-image",
    message: /lies above it in the same chain/,
  });
});

test("other schemes are refused by name", async () => {
  for (const reference of ["ftp://localhost/x", 'json:{"driver":"raw"}']) {
    const top = await make("images/uri.qed", reference, "raw");
    await assert.rejects(openChain({ file: top }, { allowBacking: "any" }), {
      code: "unsupported",
      message: new RegExp(`uri.qed' has a backing file that is not opened: ${reference.split(":")[0]}:`),
    });
  }
});

test("loops are found", async () => {
  const one = await make("images/one.qed", "two.qed", "qed");
  const two = await make("images/two.qed", "one.qed", "qed");
  const self = await make("images/self.qed", "./self.qed", "qed");
  for (const file of [one, two, self]) {
    await assert.rejects(openChain({ file }), { code: "invalid-image", message: /lies above it in the same chain/ });
    await assert.rejects(openChain({ file, readOnly: true }), { code: "invalid-image" });
  }
});

test("a backing file that is gone is named together with the image", async () => {
  const top = await make("images/top.qed", "gone.raw", "raw");
  await assert.rejects(openChain({ file: top }), {
    code: "not-found",
    message: `The backing file '${join(home, "images/gone.raw")}' of '${top}' is not there: put it back, or name another with rebase`,
  });
  await using chain = await openChain({ file: top, readOnly: true }, { partial: true });
  assert.equal(chain.layers.length, 1);
  assert.match(chain.warnings.join(), /gone.raw' of .* is not there/);
  await assert.rejects(openChain({ file: join(home, "images/never.qed") }), {
    code: "not-found",
    message: /never.qed'/,
  });
});

test("a given format is believed, and the image's word for its backing file too", async () => {
  const inner = await make("images/inner.qed");
  await using asRaw = await openChain({ file: inner, format: "raw", readOnly: true });
  assert.equal(asRaw.node.format, "raw");
  const top = await make("images/top.qed", "inner.qed", "raw");
  await using chain = await openChain({ file: top });
  const magic = Buffer.alloc(3);
  await chain.node.read(0, magic);
  assert.equal(magic.toString(), "QED");
  await assert.rejects(openChain({ file: await raw("images/plain.raw"), format: "qed" }), { code: "invalid-image" });
});

test("the top is locked for writing, backing files are shared", async () => {
  const base = await raw("images/base.raw");
  const one = await make("images/one.qed", "base.raw", "raw");
  const two = await make("images/two.qed", "base.raw", "raw");
  await using first = await openChain({ file: one });
  await using second = await openChain({ file: two });
  assert.equal(first.layers[1]?.identity, second.layers[1]?.identity);
  await assert.rejects(openChain({ file: one }), { code: "in-use" });
  await assert.rejects(openChain({ file: one, readOnly: true }), { code: "in-use" });
  await assert.rejects(openChain({ file: base }), { code: "in-use" });
  await using third = await openChain({ file: one, readOnly: true }, { lock: false });
  assert.match(third.warnings.join(), /one.qed' is being written by this process/);
});

test("another backing can take the place of the image's own", async () => {
  await raw("images/base.raw", 1);
  const top = await make("images/top.qed", "base.raw", "raw");
  const moved = join(home, "elsewhere/moved.raw");
  await rename(await raw("images/other.raw", 9), moved);
  await using chain = await openChain({ file: top, backing: { file: moved, format: "raw" } });
  const bytes = Buffer.alloc(1);
  await chain.node.read(100, bytes);
  assert.equal(bytes[0], 9);
});
