/** Images on HTTP servers: raw and compressed qcow2, as themselves and as backing files. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createImage, imageInfo, openImage, StreamdiskError, streamImage } from "../../src/index.ts";
import { type RangeServer, serveRanges } from "../support/http-server.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng } from "../support/seed.ts";

const TOKEN = "s3cret";
let home: string;
let server: RangeServer;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "streamdisk-http-"));
  server = await serveRanges(TOKEN);
  const random = rng("http images");
  const bytes = Buffer.alloc(4 * 2 ** 20);
  for (let at = 0; at < bytes.length; at += 65536) {
    if (random() < 0.5) bytes.fill(1 + Math.floor(random() * 255), at, at + 65536);
  }
  await writeFile(join(home, "base.raw"), bytes);
  qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", join(home, "base.raw"), join(home, "cloud.qcow2"));
});
after(async () => {
  await server[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

const address = (name: string) => `${server.origin}${join(home, name)}?token=${TOKEN}`;

for (const [name, format] of [
  ["base.raw", "raw"],
  ["cloud.qcow2", "qcow2"],
] as const) {
  test(`${name} is a source: streamed, the disk stands alone and equals it`, async () => {
    const top = join(home, `over-${name}.qcow2`);
    await createImage(top, { format: "qcow2", backing: address(name) });
    const info = await imageInfo(address(name));
    assert.equal(info.format, format);
    assert.equal(info["virtual-size"], 4 * 2 ** 20);
    for await (const _ of streamImage(top, { allowBacking: [`${server.origin}/`] }));
    assert.match(qemuImg("compare", "-f", "qcow2", "-F", "raw", top, join(home, "base.raw")), /identical/);
    assert.match(qemuImg("check", top), /No errors/);
    assert.ok(server.requests() > 1);
  });
}

test("an image may not name a server that its user did not allow, and the message gives no access away", async () => {
  const top = join(home, "stranger.qcow2");
  await createImage(top, { format: "qcow2", backing: address("base.raw") });
  await assert.rejects(openImage(top), (error: unknown) => {
    assert.ok(error instanceof StreamdiskError);
    assert.equal(error.code, "refused");
    assert.match(error.message, /--allow-backing 'http:/);
    assert.doesNotMatch(`${error.message} ${JSON.stringify(error.context)}`, new RegExp(TOKEN));
    return true;
  });
});

test("what is not there, and what is refused, is said without the query", async () => {
  await assert.rejects(imageInfo(`${server.origin}/etc/hostname?token=wrong`), (error: unknown) => {
    assert.ok(error instanceof StreamdiskError && error.code === "permission");
    assert.doesNotMatch(error.message, /wrong/);
    return true;
  });
});
