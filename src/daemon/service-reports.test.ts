import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeService } from "../../test/support/fake-service.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { noLog } from "./log.ts";
import { ServiceReports } from "./service-reports.ts";

function made(watchdogMs: number | undefined) {
  const told: string[] = [];
  const clock = new ManualClock();
  const manager = { watchdogMs, tell: (...lines: readonly string[]) => told.push(lines.join(" ")) };
  const beats = () => told.filter((text) => text.startsWith("WATCHDOG=1")).length;
  return { told, clock, beats, service: fakeService(), reports: new ServiceReports(manager, noLog, clock) };
}

test("ready, alive twice in the time that is allowed, ending", async () => {
  const { told, clock, beats, service, reports } = made(60_000);
  reports.status("Disks come");
  reports.ready(service);
  await clock.advance(30_000);
  await clock.advance(30_000);
  assert.equal(beats(), 3);
  assert.deepEqual(told.slice(0, 2), ["STATUS=Disks come", "READY=1 STATUS=All is served"]);
  assert.match(told[2] ?? "", /^WATCHDOG=1 STATUS=Disks: \d+, streams running: \d+$/);
  reports.stopping();
  await clock.advance(300_000);
  assert.equal(beats(), 3);
  assert.match(told.at(-1) ?? "", /^STOPPING=1 /);
});

test("a daemon that does not answer is not called alive; one that answers with an error is", async () => {
  const { told, clock, beats, service, reports } = made(60_000);
  service.before = () => {
    throw new Error("broken\nREADY=1");
  };
  reports.ready(service);
  await clock.advance(1);
  assert.equal(told.at(-1), "WATCHDOG=1 STATUS=broken READY=1");
  service.before = () => new Promise(() => {});
  await clock.advance(600_000);
  assert.equal(beats(), 1);
});

test("without a watchdog it says nothing more, and a manager that cannot be told is no failure", async () => {
  const { told, clock, service, reports } = made(undefined);
  reports.ready(service);
  await clock.advance(600_000);
  assert.equal(told.length, 1);
  const tell = (): void => {
    throw new Error("ENOENT");
  };
  new ServiceReports({ watchdogMs: undefined, tell }, noLog, clock).ready(service);
  new ServiceReports(undefined, noLog, clock).ready(service);
});
