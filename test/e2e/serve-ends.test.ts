/** How `streamdisk serve` ends, by itself and by others, and what it prints for QEMU and libvirt where that is not plain. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFails, cli, makeOverlay, peer, temporaryDirectory } from "../support/cli.ts";
import { freePort } from "../support/nbd-servers.ts";
import { startServe } from "../support/serve.ts";
import { makeCertificates } from "../support/tls-files.ts";

test("a signal is the usual end, and none of what was waited for", async (t) => {
  const { image } = makeOverlay(temporaryDirectory(t));
  const rows = [
    [["--run", "sleep 1000; true"], "SIGINT", 130],
    [["--run", "sleep 1000; true"], "SIGTERM", 143],
    [["--stream", "--speed", "64K", "--exit-when-hydrated"], "SIGTERM", 143],
    [["--stream", "--speed", "64K"], "SIGTERM", 0],
  ] as const;
  for (const [args, signal, exit] of rows) {
    const { serve } = await startServe([image, ...args]);
    t.after(() => serve[Symbol.asyncDispose]());
    const end = await serve.stop(signal);
    assert.equal(end.exit, exit, `${args.join(" ")}: ${end.stderr}`);
    const { event, command } = JSON.parse(end.stdout.trimEnd().split("\n").at(-1) ?? "") as Record<string, string>;
    assert.equal(event, "stopped");
    assert(command?.startsWith(`streamdisk serve ${image} ${args[0]}`), command);
  }
  peer("qemu-img", "check", "-q", image);
});

test("a command that a signal has ended, and one that outlasts the stream", async (t) => {
  const { directory, image } = makeOverlay(temporaryDirectory(t));
  assert.equal((await cli(["serve", image, "--run", "kill -9 $$"])).exit, 137);
  const pid = join(directory, "pid");
  const lasting = `echo $$ > ${pid}; exec sleep 60`;
  const end = await cli(["serve", image, "--stream", "--speed", "64M", "--exit-when-hydrated", "--run", lasting]);
  assert.equal(end.exit, 0, end.stderr);
  assert(existsSync(pid));
  assertFails(await cli(["serve", image, "--exit-when-hydrated"]), 64, /needs '--stream'/);
});

test("an IPv6 address is bare, and TLS has its credentials", async (t) => {
  const { directory, image } = makeOverlay(temporaryDirectory(t));
  const certificates = makeCertificates(join(directory, "certificates"));
  const port = await freePort();
  for (const [args, blockdev, libvirt] of [
    [["--port", `${port}`, "--bind", "::1"], /server\.host=::1,/, new RegExp(`<host name='::1' port='${port}'/>`)],
    [["--port", "0", "--tls-certificates", certificates], /,tls-creds=tls0,/, / tls='yes'/],
  ] as const) {
    const { serve } = await startServe([image, ...args, "--read-only"]);
    t.after(() => serve[Symbol.asyncDispose]());
    const said = await serve.event("serving");
    assert.match(said.blockdev ?? "", blockdev);
    assert.match(said.libvirt ?? "", libvirt);
    assert.equal((await serve.stop()).exit, 0);
  }
});
