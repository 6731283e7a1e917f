import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { peer, temporaryDirectory } from "../../test/support/cli.ts";
import { type DaemonSettings, readSettings } from "./settings.ts";
import { type SystemdUnitOptions, systemdUnit, UNIT_NAME } from "./systemd-unit.ts";

const COMMAND = [process.execPath, '/opt/stream disk/100%/$HOME/it\'s "it".js', "daemon"];

async function unitOf(more: Partial<SystemdUnitOptions> = {}, flags: Partial<DaemonSettings> = {}): Promise<string> {
  const settings = await readSettings({ flags, root: true, environment: {} });
  return systemdUnit({ settings, command: COMMAND, scope: "system", notifies: true, environment: {}, ...more });
}

test("systemd finds nothing to complain about", async (t) => {
  const directory = temporaryDirectory(t);
  const path = join(directory, UNIT_NAME);
  const places = { allow: ["/srv/my images", "https://images.example/"], listen: { host: "127.0.0.1", port: 0 } };
  for (const scope of ["system", "user"] as const) {
    for (const notifies of [true, false]) {
      const environment = { XDG_STATE_HOME: "/data/my state" };
      writeFileSync(path, await unitOf({ scope, notifies, environment, command: [process.execPath] }, places));
      const said = peer(
        "env",
        `XDG_RUNTIME_DIR=${directory}`,
        "systemd-analyze",
        "verify",
        `--${scope}`,
        "--man=no",
        path,
      );
      assert.equal(said, "");
    }
  }
});

test("what is written is read as it was meant", async () => {
  const unit = await unitOf({ environment: { XDG_STATE_HOME: "/data/my state" } });
  assert.match(unit, /^Type=notify\nNotifyAccess=main\nWatchdogSec=60$/m);
  assert(
    unit.includes(`\nExecStart=${process.execPath} "/opt/stream disk/100%%/$$HOME/it's \\"it\\".js" daemon\n`),
    unit,
  );
  assert.match(unit, /^Environment="XDG_STATE_HOME=\/data\/my state"$/m);
  assert.match(unit, /^KillMode=process\nOOMPolicy=continue$/m, "machines outlive the daemon, and each other");
  assert.match(unit, /^WantedBy=multi-user\.target$/m);
  await assert.rejects(unitOf({ command: ["/bin/node", "a\nExecStart=/bin/sh"] }), { code: "invalid-argument" });
});

test("without native calls systemd is not made to wait for word", async () => {
  const unit = await unitOf({ notifies: false });
  assert.match(unit, /^Type=exec$/m);
  assert.doesNotMatch(unit, /notify|Watchdog/i);
});

test("a system's daemon may write where its settings say, to make sockets, and nowhere else", async () => {
  const allow = ["/srv/images", "https://images.example/"];
  const places = (unit: string) => Array.from(unit.matchAll(/^ReadWritePaths=(.*)$/gm), ([, place]) => place);
  assert.deepEqual(places(await unitOf({}, { allow })), [
    "/tmp",
    "/var/lib/streamdisk",
    "/var/lib/streamdisk/images",
    "-/srv/images",
  ]);
  const elsewhere = { socket: "/run/sd/api.sock", tokenFile: "/etc/sd/token", listen: { host: "127.0.0.1", port: 1 } };
  assert.deepEqual(places(await unitOf({}, elsewhere)).slice(3), ["/run/sd", "/etc/sd"]);
  assert.doesNotMatch(
    await unitOf(),
    /^(?:ProtectClock|Device|PrivateDevices|PrivateTmp)/m,
    "images may be block devices",
  );
  const user = await unitOf({ scope: "user" }, { allow });
  assert.deepEqual(places(user), []);
  assert.match(user, /^WantedBy=default\.target$/m);
});
