/** Commands on images that an NBD server has, and over backing files that it has: nbdkit and qemu-nbd serve. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertComplete, assertFails, cli, cliOk, makeOverlay, peer, temporaryDirectory } from "../support/cli.ts";
import { startNbdkit, startQemuNbd } from "../support/nbd-servers.ts";

test("what reads images reads NBD exports", async (t) => {
  const directory = temporaryDirectory(t);
  const overlay = makeOverlay(directory);
  // The chain as QEMU sees it, and the qcow2 file itself as bytes.
  await using whole = await startQemuNbd(["-r", "-f", "qcow2", overlay.image]);
  await using file = await startNbdkit(["-r", "file", overlay.expected]);

  const copy = join(directory, "copy.qcow2");
  await cliOk(["convert", whole.uri, copy]);
  peer("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", copy, overlay.expected);
  await cliOk(["compare", whole.uri, file.uri]);

  const info = JSON.parse((await cliOk(["info", "--json", whole.uri])).stdout) as Record<string, unknown>;
  assert.deepEqual([info["filename"], info["format"], info["virtual-size"]], [whole.uri, "raw", 32 * 1024 ** 2]);
  assert.match((await cliOk(["info", whole.uri])).stdout, /disk size: unavailable/);

  const map = JSON.parse((await cliOk(["map", "--json", whole.uri])).stdout) as { zero: boolean; length: number }[];
  const theirs = JSON.parse(peer("qemu-img", "map", "-f", "raw", "--output=json", whole.uri)) as typeof map;
  const zeroes = (entries: typeof map): number =>
    entries.reduce((bytes, { zero, length }) => bytes + (zero ? length : 0), 0);
  assert.equal(zeroes(map), zeroes(theirs));

  assertFails(await cli(["info", "nbd+unix:///?socket=/nowhere"]), 69, "/nowhere", /no such socket/);
  assertFails(await cli(["info", "nbd://host:99999/"]), 64, /99999 is no port/);
  assertFails(await cli(["resize", whole.uri, "1G"]), 77, /is a URI, and this needs a file/);
});

test("a stream from an NBD server, once it is allowed", async (t) => {
  for (const [format, args] of [
    ["qcow2", []],
    ["qed", ["--no-sr"]],
  ] as const) {
    const directory = temporaryDirectory(t);
    const overlay = makeOverlay(directory, format);
    await using server = await startNbdkit(["-r", ...args, "file", overlay.base]);
    await cliOk(["rebase", overlay.image, "--backing", server.uri, "--backing-format", "raw"]);
    assertFails(await cli(["stream", overlay.image]), 77, server.uri, "--allow-backing");
    await cliOk(["stream", overlay.image, "--allow-backing", server.uri]);
    assertComplete(overlay);
  }
});

test("an image made over an NBD server reads and streams", async (t) => {
  const directory = temporaryDirectory(t);
  const overlay = makeOverlay(directory);
  await using server = await startQemuNbd(["-r", "-f", "qcow2", overlay.image]);
  const image = join(directory, "new.qcow2");
  await cliOk(["create", image, "--backing", server.uri, "--backing-format", "raw"]);
  peer("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, overlay.expected);
  await cliOk(["stream", image, "--allow-backing", "any"]);
  await server.stop();
  peer("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, overlay.expected);
  const raw = join(directory, "new.raw");
  await cliOk(["convert", image, raw]);
  assert.ok(readFileSync(raw).equals(readFileSync(overlay.expected)));
});
