/** Machines of the daemon's own by the command line: real processes, a real QEMU that boots nothing. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Domain } from "../../src/api/index.ts";
import { assertFails, type CliEnd, cli, cliOk } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { directoryWithMachines, imageDisk, machineXml } from "../support/machine.ts";
import { qemuImg } from "../support/qemu.ts";

async function scene(t: TestContext) {
  let daemon: DaemonProcess | undefined;
  const directory = directoryWithMachines(t, "state/machines", async () => daemon?.[Symbol.asyncDispose]());
  mkdirSync(join(directory, "images"));
  const image = join(directory, "images", "web.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "1M");
  const xml = machineXml({ name: "web", devices: imageDisk(image, "qcow2") });
  writeFileSync(join(directory, "web.xml"), xml);
  writeFileSync(join(directory, "net.xml"), machineXml({ name: "net", devices: "<interface type='user'/>" }));
  // What a machine says counts more.
  daemon = new DaemonProcess(directory, ["--accelerator", "kvm"]);
  await daemon.start();
  const options = { env: daemon.env, cwd: directory };
  const ok = (...args: string[]): Promise<CliEnd> => cliOk(["domain", ...args], options);
  const fails = (...args: string[]): Promise<CliEnd> => cli(["domain", ...args], options);
  const { client } = daemon;
  const shown = (): Promise<Domain> => client.call("getDomain", { params: { domain: "web" } });
  const events = async (): Promise<string> => (await cliOk(["events"], options)).stdout;
  return { directory, image, xml, ok, fails, shown, events };
}

test("a machine is started by its XML, shown, killed, started again, and removed", async (t) => {
  const { directory, image, xml, ok, fails, shown, events } = await scene(t);
  assertFails(await fails("start", "web", "--xml", "web.xml"), 64, /Name a machine .* or give the XML of one/);
  const refused = await fails("start", "--xml", "net.xml");
  assertFails(refused, 77, /has <interface> in <devices>: <emulator>, <serial>, <console>, <disk>, <controller> are/);

  const { stdout } = await ok("start", "--xml", "web.xml", "--autostart");
  for (const line of [/^state: running$/m, /^accelerator: tcg$/m, /^autostart: yes$/m, /^memory: 192 MiB/m]) {
    assert.match(stdout, line);
  }
  assert.ok(stdout.includes(`\nconsole: ${join(directory, "state/machines/web/console")}\n`), stdout);
  assert.match(stdout, /^vda +virtio-disk0 +qcow2 +\S+web\.qcow2/m);
  const pid = (await shown()).machine?.pid;
  assert.match((await ok("ls")).stdout, new RegExp(`^web +running +${pid} +vda +\\S+/machines/web/qmp$`, "m"));
  assert.equal((await ok("dumpxml", "web")).stdout, `${xml}\n`);
  assertFails(await fails("rm", "web"), 75, /stop it first/);

  process.kill(pid!, "SIGKILL");
  while ((await shown()).state !== "stopped") await sleep(50);
  assert.match((await ok("ls")).stdout, /^web +stopped +- +vda +killed by signal 9 \(SIGKILL\)$/m);
  assert.match((await ok("show", "web")).stdout, /^last end: killed by signal 9 \(SIGKILL\) \(20/m);
  assert.match((await ok("start", "web", "--no-autostart")).stdout, /^autostart: no$/m);
  const running = (await shown()).machine!.pid!;
  assert.equal((await ok("stop", "web", "--force")).stdout, "The domain 'web' has ended\n");
  assert.equal(existsSync(`/proc/${running}`), false, "its process too");
  const { state, machine } = await shown();
  assert.deepEqual([state, machine?.end?.reason], ["stopped", "QEMU was told to quit"]);
  assert.match((await ok("rm", "web")).stdout, /^The domain 'web' was removed: its images stay, /m);
  assert.ok(existsSync(image));
  const told = await events();
  for (const line of [
    /domain-started +.*was started \(pid \d+, by TCG/,
    /domain-stopped .*QEMU was told to quit/,
    /domain-removed/,
  ]) {
    assert.match(told, line);
  }
});
