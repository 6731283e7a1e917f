import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../../test/support/cli.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { machineEndReason, readMachineEnd } from "./machine-end.ts";
import { machinePaths } from "./machine-paths.ts";
import { trimLog } from "./trim-log.ts";

const TERMINATED = "qemu-system-x86_64: terminating on signal 15 from pid 1 (/lib/systemd/systemd)\n";
const REFUSED = `qemu-system-x86_64: -blockdev {"driver":"qcow2","file":{"a":"b"}}: Could not open '/a': No such file\n`;

const ENDS: readonly (readonly [
  exit: string,
  log: string,
  said: string | undefined,
  reason: string,
  onPurpose: boolean,
])[] = [
  ["0\n", "", "guest-shutdown", "guest shut down", true],
  ["0\n", "", undefined, "guest shut down", true],
  ["0\n", "", "host-qmp-quit", "QEMU was told to quit", true],
  ["0\n", "", "guest-panic", "guest panicked", false],
  ["0\n", "", "subsystem-reset", "QEMU ended: subsystem-reset", false],
  ["0\n", "a warning\n", undefined, "guest shut down", true],
  ["0\n", TERMINATED, "host-signal", "QEMU was ended by signal 15", false],
  ["0\n", TERMINATED, undefined, "QEMU was ended by signal 15", false],
  ["137\n", "", undefined, "killed by signal 9 (SIGKILL)", false],
  ["139\n", "", undefined, "killed by signal 11 (SIGSEGV)", false],
  ["1\n", `first\n${REFUSED}\n`, undefined, "exit code 1: Could not open '/a': No such file", false],
  ["1\n", "", undefined, "exit code 1", false],
  ["", "all was well\n", undefined, "ended, and nobody saw how: all was well", false],
  ["nonsense", "", "guest-shutdown", "ended, and nobody saw how", false],
];

for (const [exit, log, said, reason, onPurpose] of ENDS) {
  test(`${JSON.stringify(exit)}, ${JSON.stringify(log)}, ${said}: ${reason}`, async (t) => {
    const paths = machinePaths(temporaryDirectory(t));
    if (exit !== "") writeFileSync(paths.exit, exit);
    writeFileSync(paths.log, log);
    assert.deepEqual(machineEndReason(await readMachineEnd(paths), said), { reason, onPurpose });
  });
}

test("a shell that hangs before it has written down how the machine ended is not waited for", async (t) => {
  const paths = machinePaths(temporaryDirectory(t));
  const shell = spawn("sh", ["-c", "kill -STOP $$", paths.exit], { stdio: "ignore" });
  t.after(() => shell.kill("SIGKILL"));
  writeFileSync(paths.shell, `${shell.pid}\n`);
  const clock = new ManualClock();
  assert.deepEqual(await clock.runUntil(readMachineEnd(paths, clock)), {});
  assert.ok(clock.now() > 1000, "others are given some time");
});

test("a line that is too long is cut, and a log that is not there says nothing", async (t) => {
  const paths = machinePaths(temporaryDirectory(t));
  writeFileSync(paths.exit, "2\n");
  assert.deepEqual(await readMachineEnd(paths), { exitCode: 2 });
  writeFileSync(paths.log, "x".repeat(100_000));
  assert.equal((await readMachineEnd(paths)).lastLine?.length, 500);
});

test("a log that has grown too long begins anew, and the last of it is kept", async (t) => {
  const log = join(temporaryDirectory(t), "console.log");
  await trimLog(log);
  writeFileSync(log, "x".repeat(4 * 2 ** 20));
  await trimLog(log);
  assert.equal(statSync(log).size, 4 * 2 ** 20);
  writeFileSync(log, "y", { flag: "a" });
  await trimLog(log);
  assert.equal(statSync(log).size, 0);
  assert.equal(readFileSync(`${log}.1`, "latin1").at(-1), "y");
});
