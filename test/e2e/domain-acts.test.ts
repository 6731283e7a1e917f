/** What people do with a machine as a whole, by the commands: a real daemon, a real QEMU. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { assertFails, cli, cliOk } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { startQemuDisk } from "../support/qemu-disk.ts";

test("a machine is paused, resumed, reset and ended; a policy is set for what is served below a disk", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2", size: 2 ** 20 });
  await using daemon = new DaemonProcess(join(disk.directory, "daemon"));
  await daemon.start();
  const options = { env: daemon.env, cwd: disk.directory };
  const say = async (...args: string[]): Promise<string> => (await cliOk(args, options)).stdout;
  await say("domain", "add", "web", "--qmp", "qmp");
  assert.equal(await say("domain", "resume", "web"), "The domain 'web' goes on\n");
  assert.match(await say("domain", "show", "web"), /^state: running$/m);
  assert.equal(await say("domain", "pause", "web"), "The domain 'web' is paused, until it is resumed\n");
  const shown = await say("domain", "show", "web");
  assert.match(shown, /^state: paused\npaused: paused, since .*: It was paused, and goes on by 'domain resume web'$/m);
  assert.match(await say("domain", "ls"), /^web +paused \(paused\) /m);
  assertFails(
    await cli(["domain", "stop", "web"], options),
    77,
    /does not run \(paused\), so its guest can't power it off/,
  );
  assert.equal(await say("domain", "reset", "web"), "The domain 'web' was reset\n");
  const { pause } = JSON.parse(await say("domain", "show", "web", "--json")) as { pause?: { byUser: boolean } };
  assert.equal(pause?.byUser, true, "a reset does not let it go on");
  await say("domain", "resume", "web");
  const late = await cli(["domain", "stop", "web", "--timeout", "1s"], options);
  assertFails(late, 75, /has not ended within 1 s: its guest may not heed the power button; '--force' ends it/);
  assertFails(
    await cli(["disk", "policy", "web:vda", "pause"], options),
    77,
    /Nothing that this daemon serves lies below/,
  );
  assert.equal(await say("domain", "stop", "web", "--force"), "The domain 'web' has ended\n");
  assert.match(await say("domain", "show", "web"), /^state: unreachable$/m);
  assert.match(await say("events"), /domain-stopped +The domain 'web' was ended, as it was told/);

  await say("disk", "create", "vm1", "--size", "1M");
  assert.match(await say("disk", "policy", "vm1", "hold:20s,pause"), /^'vm1': /);
  assert.match(await say("disk", "show", "vm1", "--json"), /"holdMs": ?20000,\s*"afterwards": ?"pause"/);
});
