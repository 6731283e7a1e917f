/** The daemon as a service of a real systemd: installed, started, ended from outside or hung, started again by itself, and stopped. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DaemonClient } from "../../src/client/index.ts";
import { unixTransport } from "../../src/host/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { MAIN, noise, temporaryDirectory } from "../support/cli.ts";
import { machineXml } from "../support/machine.ts";
import { sample } from "../support/seed.ts";
import { Systemd } from "../support/systemd.ts";

const MIB = 2 ** 20;
const UNIT = "streamdisk.service";
const ENDS = [
  { end: "killed", signal: "SIGKILL" },
  { end: "hung", signal: "SIGSTOP" },
] as const;

async function run(t: TestContext, signal: NodeJS.Signals): Promise<void> {
  const directory = temporaryDirectory(t);
  const [images, state] = [join(directory, "images"), join(directory, "state")];
  mkdirSync(images);
  const base = join(images, "base.raw");
  writeFileSync(base, noise(8 * MIB, 3));
  const config = join(directory, "daemon.json");
  writeFileSync(config, JSON.stringify({ stateDirectory: state, imageDirectory: images, logLevel: "warn" }));
  await using systemd = await Systemd.start(directory);
  const streamdisk = (...args: string[]): string => systemd.ok(process.execPath, MAIN, ...args);

  assert.match(streamdisk("daemon", "install", "--config", config), /systemctl enable --now streamdisk\.service/);
  // A minute is long to wait for.
  const faster = join(directory, "units", `${UNIT}.d`);
  mkdirSync(faster);
  writeFileSync(join(faster, "faster.conf"), "[Service]\nWatchdogSec=12\n");
  systemd.ok("systemctl", "daemon-reload");
  systemd.ok("systemctl", "enable", "--now", UNIT);
  assert.equal(systemd.show(UNIT, "ActiveState"), "active");
  const socket = join(state, "daemon.sock");
  const client = new DaemonClient(unixTransport(socket));
  const status = (): string =>
    systemd.ok("env", `STREAMDISK_DAEMON=${socket}`, process.execPath, MAIN, "daemon", "status");
  assert.match(status(), /^disks: 0$/m);
  const body = { name: "vm1", backing: base, backingFormat: "raw", stream: { speed: MIB / 4 } } as const;
  const { uri = "" } = await client.call("createDisk", { body });
  const written = Buffer.alloc(4096, 7);
  {
    await using guest = await connectNbd(uri);
    await guest.write(4 * MIB, written);
  }

  const machine = (await client.call("runMachine", { body: { xml: machineXml({ name: "vm" }) } })).machine?.pid;
  const machineLives = async (when: string): Promise<void> => {
    const { state: now, machine: found } = await client.call("getDomain", { params: { domain: "vm" } });
    assert.deepEqual([now, found?.pid], ["running", machine], `the machine lives on: ${when}`);
  };

  const pid = systemd.show(UNIT, "MainPID");
  systemd.ok("kill", "-s", signal.slice(3), pid);
  while (systemd.show(UNIT, "NRestarts") === "0") await sleep(200);
  while (systemd.show(UNIT, "ActiveState") !== "active") await sleep(200);
  assert.notEqual(systemd.show(UNIT, "MainPID"), pid);
  const { disks } = await client.call("listDisks", {});
  assert.deepEqual(
    disks.map(({ name, uri: again, stream }) => [name, again, stream?.state]),
    [["vm1", uri, "running"]],
  );
  {
    await using guest = await connectNbd(uri);
    const read = Buffer.alloc(4096);
    await guest.read(4 * MIB, read);
    assert(read.equals(written), "what was acknowledged is there");
  }
  await machineLives("its daemon ended, and was started again");
  const { events } = await client.call("listEvents", { query: { limit: 100 } });
  assert.equal(events.filter(({ type }) => type === "daemon-started").length, 2);
  assert.equal(events.filter(({ type }) => type === "daemon-stopped").length, 0);

  systemd.ok("systemctl", "stop", UNIT);
  assert.deepEqual([systemd.show(UNIT, "ActiveState"), systemd.show(UNIT, "ExecMainStatus")], ["inactive", "0"]);
  systemd.ok("systemctl", "start", UNIT);
  await machineLives("the service was stopped, and started");
  const after = await client.call("listEvents", { query: { limit: 100 } });
  assert.equal(after.events.filter(({ type }) => type === "daemon-stopped").length, 1);
}

if (process.getuid?.() === 0) {
  for (const { end, signal } of sample("systemd", ENDS, 1)) {
    test(`a service of systemd's, whose daemon is ${end}`, (t) => run(t, signal));
  }
}
