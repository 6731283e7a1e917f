import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { connectNbd } from "../../src/nbd/index.ts";
import {
  assertComplete,
  assertFails,
  cli,
  cliOk,
  hashes,
  makeOverlay,
  peer,
  startCli,
  temporaryDirectory,
} from "../support/cli.ts";
import { RunningServe, startServe } from "../support/serve.ts";
import { makePskFile } from "../support/tls-files.ts";

const MIB = 1024 ** 2;

/** A command that must not serve: if it says that it does, it is ended. */
const refused = (...args: string[]) => {
  const serve = startCli(["serve", ...args], { onLine: () => serve.child.kill("SIGKILL") });
  return serve.ended;
};

const overlayOf = (t: TestContext) => makeOverlay(temporaryDirectory(t));

test("serve says where, with what QEMU and libvirt need, and Ctrl-C what goes on", async (t) => {
  const overlay = overlayOf(t);
  const serve = new RunningServe([overlay.image], {});
  t.after(() => serve[Symbol.asyncDispose]());
  const [uri = ""] = (await serve.line((line) => line.includes("Serving"))).match(/nbd\S+/) ?? [];
  assert.match(serve.lines[0] ?? "", /^Serving '\S+vm\.qcow2' \(qcow2\) at nbd\+unix:\/\/\/\?socket=\/\S+$/);
  const libvirt = await serve.line((line) => line.startsWith("libvirt:"));
  const socket = decodeURIComponent(new URL(uri).searchParams.get("socket") ?? "");
  assert(libvirt.includes(`<host transport='unix' socket='${socket}'/>`), libvirt);
  assert.equal(statSync(socket).mode & 0o777, 0o600);

  // The option is QEMU's as it stands.
  const blockdev = /-blockdev (\S+)$/.exec(await serve.line((line) => line.startsWith("QEMU:")))?.[1] ?? "";
  const node = `json:${JSON.stringify({ driver: "raw", file: parsed(blockdev) })}`;
  peer("qemu-img", "compare", "-q", "-F", "raw", node, overlay.expected);
  const { exit, stdout, stderr } = await serve.stop();
  assert.equal(exit, 0);
  assert.equal(stderr, "");
  assert.match(stdout, /is in order and keeps what was fetched\. Go on with: streamdisk serve \S+vm\.qcow2\n$/);
  assert.equal(existsSync(socket), false);
  peer("qemu-img", "check", "-q", overlay.image);
});

/** A `-blockdev` option as an object; what it has no need of for this is left out. */
function parsed(option: string): Record<string, unknown> {
  const values: Record<string, string> = {};
  for (const part of option.split(",")) {
    const at = part.indexOf("=");
    if (part.slice(0, at) !== "node-name") values[part.slice(0, at)] = part.slice(at + 1);
  }
  return values;
}

test("serve --stream --exit-when-hydrated fills the image and ends, with JSON lines on the way", async (t) => {
  const overlay = overlayOf(t);
  const { serve } = await startServe([overlay.image, "--stream", "--speed", "8M", "--exit-when-hydrated"]);
  t.after(() => serve[Symbol.asyncDispose]());
  const { info } = await serve.event("serving");
  assert.equal(info?.hydrated, false);
  assert.equal(info?.length, 32 * MIB);
  const status = await serve.event("status");
  assert(status.missingBytes !== undefined && status.missingBytes < 32 * MIB);
  const { exit, stderr } = await serve.ended;
  assert.equal(exit, 0, stderr);
  assert.equal(stderr, "");
  await serve.event("hydrated");
  assertComplete(overlay);
});

test("serve --run has $uri and $socket, and ends with the command and its exit code", async (t) => {
  const overlay = overlayOf(t);
  const copy = join(overlay.directory, "copy.raw");
  const run = `test -S "$socket" && qemu-img convert -f raw -O raw "$uri" ${copy} && exit 7`;
  const end = await cli(["serve", overlay.image, "--run", run]);
  assert.equal(end.exit, 7, end.stderr);
  assert.equal(end.stderr, "");
  peer("qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", copy, overlay.expected);
  peer("qemu-img", "check", "-q", overlay.image);
});

test("serve --socket has the mode that was asked for, --pid-file its pid, and neither stays", async (t) => {
  const overlay = overlayOf(t);
  const socket = join(overlay.directory, "vm.sock");
  const pidFile = join(overlay.directory, "pid");
  const args = [overlay.image, "--socket", socket, "--socket-mode", "660", "--pid-file", pidFile, "--export", "a b"];
  const { serve, uri } = await startServe(args);
  t.after(() => serve[Symbol.asyncDispose]());
  assert.equal(statSync(socket).mode & 0o777, 0o660);
  assert.equal(readFileSync(pidFile, "utf8"), `${serve.pid}\n`);
  const list = JSON.parse((await cliOk(["nbd", "list", uri, "--json"])).stdout) as { name: string }[];
  assert.deepEqual(
    list.map(({ name }) => name),
    ["a b"],
  );
  assert.equal((await serve.stop("SIGTERM")).exit, 0);
  assert.equal(existsSync(socket), false);
  assert.equal(existsSync(pidFile), false);
});

test("serve --port listens on the loopback; anywhere else wants TLS", async (t) => {
  const overlay = overlayOf(t);
  const { serve, uri } = await startServe([overlay.image, "--port", "0", "--read-only"]);
  t.after(() => serve[Symbol.asyncDispose]());
  assert.match(uri, /^nbd:\/\/127\.0\.0\.1:\d+\/?$/);
  const info = JSON.parse((await cliOk(["nbd", "info", uri, "--json"])).stdout) as Record<string, unknown>;
  assert.equal(info["length"], 32 * MIB);
  assert.equal(info["readOnly"], true);
  assert.equal((await serve.stop()).exit, 0);

  const before = hashes(overlay.image);
  assertFails(await refused(overlay.image, "--port", "0", "--bind", "0.0.0.0"), 77, /'0\.0\.0\.0'.*--tls/);
  assertFails(await refused(overlay.image, "--bind", "127.0.0.1"), 64, /'--bind' needs '--port'/);
  assertFails(await refused(overlay.image, "--port", "0", "--bind", "localhost"), 64, /IP address.*'localhost'/);
  assertFails(await refused(overlay.image, "--port", "65536"), 64, /'65536'/);
  assert.deepEqual(hashes(overlay.image), before);

  const keys = makePskFile(join(overlay.directory, "keys.psk"), "guest");
  const open = await startServe([overlay.image, "--port", "0", "--bind", "0.0.0.0", "--tls-psk-file", keys]);
  t.after(() => open.serve[Symbol.asyncDispose]());
  assert.match(open.uri, /^nbds:\/\/0\.0\.0\.0:\d+\/?$/);
  const local = open.uri.replace("0.0.0.0", "guest@127.0.0.1");
  const { stdout } = await cliOk(["nbd", "info", local, "--tls-psk-file", keys]);
  assert.match(stdout, /^TLS: yes$/m);
  assert.equal((await cli(["nbd", "info", local.replace("nbds", "nbd")])).exit, 77);
});

test("serve --create makes an overlay once, and serves it the next time", async (t) => {
  const { directory, base } = overlayOf(t);
  const image = join(directory, "new.qed");
  const args = [image, "--create", "--backing", base, "--backing-format", "raw"];
  const first = await startServe(args);
  t.after(() => first.serve[Symbol.asyncDispose]());
  {
    await using node = await connectNbd(first.uri);
    await node.write(MIB, Buffer.from("a guest was here"));
  }
  assert.equal((await first.serve.stop()).exit, 0);
  const info = JSON.parse(peer("qemu-img", "info", "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["format"], "qed");
  assert.equal(info["full-backing-filename"] ?? info["backing-filename"], base);

  const second = await startServe([...args, "--stream", "--exit-when-hydrated"]);
  t.after(() => second.serve[Symbol.asyncDispose]());
  assert.equal((await second.serve.ended).exit, 0);
  const written = peer("qemu-io", "-r", "-f", "qed", "-c", `read -v ${MIB} 512`, image);
  assert.match(written, /a\.guest\.was\.her/);
  peer("qemu-img", "check", "-q", image);
});

test("an image that is served is not served twice", async (t) => {
  const overlay = overlayOf(t);
  const { serve, uri } = await startServe([overlay.image]);
  t.after(() => serve[Symbol.asyncDispose]());
  assertFails(await refused(overlay.image), 75, `'${overlay.image}'`, new RegExp(`pid ${serve.pid}`));
  const socket = decodeURIComponent(new URL(uri).searchParams.get("socket") ?? "");
  const other = join(overlay.directory, "other.qcow2");
  await cliOk(["create", other, "1M"]);
  assertFails(await refused(other, "--socket", socket), 75, `'${socket}'`);
  await cliOk(["nbd", "info", uri]);
});

test("Ctrl-C while a stream runs: the image is in order, and the command goes on with the stream", async (t) => {
  const overlay = overlayOf(t);
  const serve = new RunningServe([overlay.image, "--stream", "--speed", "4M"], {});
  t.after(() => serve[Symbol.asyncDispose]());
  await serve.line((line) => line.startsWith("libvirt:"));
  const { exit, stdout } = await serve.stop();
  assert.equal(exit, 0);
  assert.match(stdout, /Go on with: streamdisk serve \S+vm\.qcow2 --stream --speed 4M\n$/);
  peer("qemu-img", "check", "-q", overlay.image);
  peer("qemu-img", "compare", "-q", overlay.image, overlay.expected);
  const again = await startServe([overlay.image, "--stream", "--exit-when-hydrated"]);
  t.after(() => again.serve[Symbol.asyncDispose]());
  assert.equal((await again.serve.ended).exit, 0);
  assertComplete(overlay);
});

test("a command line that makes no sense is one line, and nothing is served or made", async (t) => {
  const overlay = overlayOf(t);
  const { directory, image } = overlay;
  const file = join(directory, "file");
  writeFileSync(file, "no socket");
  const before = hashes(image, file);
  const fresh = join(directory, "fresh.qcow2");
  const rows: [string[], number, RegExp][] = [
    [[image, "--on-source-error", "hold:30"], 64, /'hold:30'.*hold:30s,error/],
    [[image, "--on-source-error", "hold:30,error"], 64, /'30'/],
    [[image, "--socket", file], 73, /file' is there already and is no socket/],
    [[image, "--socket", file, "--port", "0"], 64, /'--socket' and '--port'/],
    [[image, "--socket-mode", "999"], 64, /'999'/],
    [[image, "--speed", "8M"], 64, /'--speed'.*'--stream'/],
    [[image, "--socket-mode", "660"], 64, /'--socket-mode'.*'--socket'/],
    [[image, "--stream", "--read-only"], 64, /read-only/],
    [[fresh], 66, /fresh\.qcow2/],
    [[fresh, "--create"], 64, /fresh\.qcow2'.*backing file or a size/],
    [[fresh, "--create", "--backing", join(directory, "no-base.raw")], 66, /no-base\.raw/],
    [["nbd+unix:///?socket=/nowhere"], 69, /no such socket/],
    [["nbd+unix:///?socket=/nowhere", "--create", "--size", "1M"], 64, /is a URI/],
  ];
  for (const [args, exit, words] of rows) assertFails(await refused(...args), exit, words);
  assert.equal(existsSync(fresh), false);
  assert.deepEqual(hashes(image, file), before);
});

test("nbd tells a server that is not there, and one that is none", async (t) => {
  const directory = temporaryDirectory(t);
  assertFails(await cli(["nbd", "info", `nbd+unix:///?socket=${directory}/none`]), 69, /none/);
  assertFails(await cli(["nbd", "list", "http://127.0.0.1/"]), 64, /http/);
  assertFails(await cli(["nbd", "look", "nbd://127.0.0.1/"]), 64, /look.*info, list/);
});
