/** The daemon as a service: what systemd is told, the unit that runs it, and whether one runs. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFails, cli, cliOk, MAIN, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { NotifySocket } from "../support/notify-socket.ts";

test("systemd hears when all is served, that it goes on, and when it ends", async (t) => {
  const directory = temporaryDirectory(t);
  const name = join(directory, "notify");
  await using socket = await NotifySocket.listen(name);
  await using daemon = new DaemonProcess(directory, [], { NOTIFY_SOCKET: name, WATCHDOG_USEC: "400000" });
  await daemon.start();
  await socket.hears("READY=1");
  await socket.hears("WATCHDOG=1", 3);
  assert.equal((await daemon.stop())?.exit, 0);
  await socket.hears("STOPPING=1");
  const order = ["READY=1", "WATCHDOG=1", "STOPPING=1"].map((line) =>
    socket.heard.findIndex((lines) => lines.includes(line)),
  );
  assert.deepEqual(
    order,
    order.toSorted((a, b) => a - b),
  );
  assert.equal(socket.heard.at(-1)?.[0], "STOPPING=1");
});

test("without native calls it runs all the same, and its log has a word on it", async (t) => {
  const directory = temporaryDirectory(t);
  const name = join(directory, "notify");
  await using socket = await NotifySocket.listen(name);
  await using daemon = new DaemonProcess(directory, [], { NOTIFY_SOCKET: name, STREAMDISK_NATIVE: "off" });
  await daemon.start();
  const end = await daemon.stop();
  assert.equal(end?.exit, 0);
  assert.equal(end?.stderr.split("\n").filter((line) => line.includes("service manager cannot be told")).length, 1);
  assert.deepEqual(socket.heard, []);
});

test("install writes a unit once, tells what is next, and replaces none that differs", async (t) => {
  const directory = temporaryDirectory(t);
  const config = join(directory, "daemon.json");
  writeFileSync(config, JSON.stringify({ stateDirectory: join(directory, "state") }));
  const env = { XDG_CONFIG_HOME: join(directory, "config") };
  const path = join(env.XDG_CONFIG_HOME, "systemd/user/streamdisk.service");
  const install = (...args: string[]) => cli(["daemon", "install", "--user", "--config", config, ...args], { env });

  const printed = await install("--print");
  assert.deepEqual([printed.exit, existsSync(path), existsSync(join(directory, "state"))], [0, false, false]);
  assert.equal(/systemd does not run this machine/.test(printed.stderr), !existsSync("/run/systemd/system"));
  const first = await install();
  assert.equal(first.exit, 0, first.stderr);
  assert.match(first.stdout, /is written.*\n {2}systemctl --user daemon-reload\n {2}systemctl --user enable --now /);
  const unit = readFileSync(path, "utf8");
  assert.equal(unit, printed.stdout);
  assert(unit.includes(`\nExecStart=${process.execPath} ${MAIN} daemon --config ${config}\n`), unit);
  assert.equal(statSync(join(directory, "state")).mode & 0o777, 0o700);
  assert.match((await install()).stdout, /is there already/);
  writeFileSync(path, `${unit}Nice=5\n`);
  assertFails(await install(), 73, /another unit.*--print.*--force/);
  assert.equal(readFileSync(path, "utf8"), `${unit}Nice=5\n`);
  const forced = JSON.parse((await install("--force", "--json")).stdout) as Record<string, unknown>;
  assert.deepEqual([forced["path"], forced["written"], forced["unit"]], [path, true, unit]);
  assert.equal(readFileSync(path, "utf8"), unit);
});

test("install says when systemd cannot be told", async (t) => {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, "config"));
  const env = { XDG_CONFIG_HOME: join(directory, "config"), STREAMDISK_NATIVE: "off" };
  const { stdout, stderr } = await cliOk(["daemon", "install", "--user", "--print"], { env });
  assert.match(stderr, /systemd will not know when the daemon is ready/);
  assert.match(stdout, /^Type=exec$/m);
});

test("status tells whether one runs, and which", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  const { env } = daemon;
  const none = await cli(["daemon", "status"], { env });
  assert.deepEqual([none.exit, none.stderr], [3, ""]);
  assert.match(none.stdout, /No daemon runs at '.*daemon\.sock'/);
  await daemon.start();
  await daemon.client.call("createDisk", { body: { name: "vm1", size: 2 ** 20 } });
  const { stdout } = await cliOk(["daemon", "status"], { env });
  assert.match(
    stdout,
    /^address: .*daemon\.sock\nversion: .*\nsince: 20.*\ndisks: 1\nstreams: 0 of at most 4 at once\n/,
  );
  const json = JSON.parse((await cliOk(["daemon", "status", "--json"], { env })).stdout) as Record<string, unknown>;
  assert.deepEqual([json["running"], json["disks"], json["address"]], [true, 1, daemon.socket]);
  await daemon.stop();
  const gone = await cli(["daemon", "status", "--json"], { env });
  assert.deepEqual([gone.exit, JSON.parse(gone.stdout)], [3, { running: false, address: daemon.socket }]);
});
