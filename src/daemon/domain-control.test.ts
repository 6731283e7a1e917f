import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { FakeMachine, type FakeMachineOptions } from "../../test/support/fake-machine.ts";
import { FakeVirsh } from "../../test/support/fake-virsh.ts";
import { LibvirtDomain, RunningDomain } from "../domain/index.ts";
import { DomainControl } from "./domain-control.ts";
import { DomainGuard } from "./domain-guard.ts";

/** Longer than anything here takes: it only ends a test that would hang. */
const LONG = { force: false, timeoutMs: 60_000 };

/** What a person does with one that is not looked after: nobody has asked its QEMU anything yet. */
function unguarded({ held, parts }: FakeMachine): DomainControl {
  return new DomainControl(held, new DomainGuard(held, parts), parts.machines());
}

/** One that is looked after. */
async function guarded(t: TestContext, options: FakeMachineOptions = {}): Promise<FakeMachine> {
  const machine = await FakeMachine.start(t, options);
  machine.guards.begin(machine.held);
  return machine;
}

test("a guest that powers itself off is let go on when its source was lost meanwhile", async (t) => {
  const machine = await guarded(t);
  const stopped = machine.control.stop(LONG);
  await machine.until("system_powerdown");
  machine.fails();
  await machine.until("cont");
  await machine.ends();
  await stopped;
});

test("whoever loses patience with a guest that powers itself off ends it, and may pause it", async (t) => {
  const machine = await guarded(t);
  const stopped = machine.control.stop(LONG);
  await machine.until("system_powerdown");
  await machine.control.pause();
  assert.equal(machine.state, "paused");
  await machine.control.stop({ ...LONG, force: true });
  await stopped;
  assert.deepEqual(machine.story, ["system_powerdown", "stop", "STOP", "quit", "SHUTDOWN"]);
});

test("nobody waits for a guest that powers itself off when the daemon ends", async (t) => {
  const machine = await guarded(t);
  const { control } = machine;
  const stopped = assert.rejects(control.stop(LONG), { code: "shutdown", message: /Nobody waits for 'vm' any more/ });
  await machine.until("system_powerdown");
  await machine.guards.end(machine.held);
  await stopped;
  await assert.rejects(control.stop({ ...LONG, force: true }), { code: "shutdown" });
  assert.deepEqual(machine.story, ["system_powerdown"]);
});

test("nor for a QEMU that was told to end", async (t) => {
  const machine = await guarded(t);
  machine.does["quit"] = () => {};
  const stopped = assert.rejects(machine.control.stop({ ...LONG, force: true }), { code: "shutdown" });
  await machine.until("quit");
  await machine.guards.end(machine.held);
  await stopped;
});

test("one of libvirt's has ended when libvirt says so, and not when libvirt is away", async (t) => {
  const end = [
    'cd "$(dirname "$0")"',
    `case "$JSON" in *quit*) : >quit; echo '{"return":{}}'; exit;; esac`,
    `if ! [ -e quit ]; then echo '{"return":{"status":"running"}}'; exit; fi`,
    "printf x >>away",
    'if [ "$(cat away)" = xxxx ]; then echo "error: Requested operation is not valid: domain is not running" >&2; exit 1; fi',
    'echo "error: client socket is closed" >&2; exit 1',
  ];
  using virsh = new FakeVirsh({ "qemu-monitor-event": "exec sleep 60", "qemu-monitor-command": end.join("\n") });
  const machine = await FakeMachine.start(t);
  const libvirt = new LibvirtDomain({ name: "vm", connect: "qemu:///session" });
  const { description } = machine.held.running;
  await using running = new RunningDomain({ qmp: libvirt.monitor, description });
  const held = { ...machine.held, libvirt, running };
  const control = new DomainControl(held, new DomainGuard(held, machine.parts), machine.parts.machines());
  await control.stop({ force: true, timeoutMs: 5000 });
  const asked = virsh.calls.flatMap((call) => /"execute":"(.*?)"/.exec(call.at(-1) ?? "")?.[1] ?? []);
  assert.deepEqual(asked.slice(0, 5), ["quit", ...Array(4).fill("query-status")]);
});

test("a reset lets go on what an error has stopped, and not what another program has paused", async (t) => {
  const stopped = await FakeMachine.start(t, { state: "io-error" });
  await unguarded(stopped).reset();
  assert.deepEqual(stopped.story, ["system_reset", "RESET", "cont", "RESUME"]);
  const paused = await FakeMachine.start(t, { state: "paused" });
  const control = unguarded(paused);
  await control.reset();
  assert.equal(paused.state, "prelaunch");
  await control.reset();
  assert.deepEqual(paused.story, ["system_reset", "RESET", "system_reset", "RESET"]);
});

test("a reset is done when QEMU has done it, also by a monitor that was not connected", async (t) => {
  const machine = await FakeMachine.start(t, { state: "io-error" });
  machine.does["system_reset"] = () => void setTimeout(() => machine.becomes("prelaunch", "RESET"), 100);
  await unguarded(machine).reset();
  assert.deepEqual(machine.story, ["system_reset", "RESET", "cont", "RESUME"]);
});
