/** Machines of the daemon over a memory of its own, with real QEMUs that boot nothing. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { noise } from "../../test/support/cli.ts";
import { directoryWithMachines, imageDisk, killMachines, machinePid, machineXml } from "../../test/support/machine.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { qemuImg } from "../../test/support/qemu.ts";
import { stubbornEmulator } from "../../test/support/stubborn-emulator.ts";
import { until } from "../../test/support/until.ts";
import type { Domain } from "../api/index.ts";
import { UNFINISHED_STATES } from "../jobs/index.ts";
import { Daemon } from "./daemon.ts";
import type { DaemonOptions } from "./daemon-options.ts";

/** A store that outlives its daemons, as one on a disk does. */
class LastingStore extends MemoryStore {
  override async close(): Promise<void> {}
}

class Bench {
  readonly images: string;
  readonly machines: string;
  readonly store = new LastingStore();
  readonly #directory: string;
  daemon!: Daemon;

  constructor(t: TestContext) {
    this.#directory = directoryWithMachines(t, "machines", () => this.daemon.close());
    this.images = join(this.#directory, "images");
    this.machines = join(this.#directory, "machines");
    mkdirSync(this.images);
  }

  async boot(bootId: string, options: Partial<DaemonOptions> = {}): Promise<void> {
    this.daemon = await Daemon.start(this.store, {
      ...options,
      ...{ version: "0", imageDirectory: this.images, socketDirectory: join(this.#directory, "sockets") },
      ...{ machineDirectory: this.machines, allow: [], allowKeys: [], sourceOptions: {}, maxStreams: 1, bootId },
      keep: { events: 1000, jobs: 100 },
    });
  }

  /** All that runs ends, and the host comes back as another. */
  async reboot(bootId: string): Promise<void> {
    await this.daemon.close();
    killMachines(this.machines);
    await this.boot(bootId);
  }

  run(xml: string, autostart?: boolean): Promise<Domain> {
    const body = { xml, ...(autostart !== undefined && { autostart }) };
    return this.daemon.runMachine({ params: {}, query: {}, body });
  }

  start(domain: string): Promise<Domain> {
    return this.daemon.startDomain({ params: { domain }, query: {}, body: {} });
  }

  stop(domain: string, force: boolean): Promise<Domain> {
    return this.daemon.stopDomain({ params: { domain }, query: {}, body: { force, timeoutMs: 1000 } });
  }

  async show(domain: string): Promise<Domain> {
    return this.daemon.getDomain({ params: { domain }, query: {}, body: {} });
  }

  remove(domain: string): Promise<undefined> {
    return this.daemon.removeDomain({ params: { domain }, query: {}, body: {} });
  }

  async until(domain: string, is: (now: Domain) => boolean): Promise<Domain> {
    for (;;) {
      const now = await this.show(domain);
      if (is(now)) return now;
      await sleep(50);
    }
  }

  async events(): Promise<string[]> {
    return (await this.store.events({ limit: 1000 })).map(({ type, message }) => `${type}: ${message}`);
  }
}

async function bench(t: TestContext): Promise<Bench> {
  const made = new Bench(t);
  await made.boot("first");
  return made;
}

const stopped = ({ state }: Domain): boolean => state === "stopped";

test("a machine runs, for its owner alone, and is forgotten when it was stopped", async (t) => {
  const it = await bench(t);
  const image = join(it.images, "a.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "1M");
  const xml = machineXml({ name: "web", devices: imageDisk(image, "qcow2") });
  const { state, machine, disks } = await it.run(xml);
  assert.equal(state, "running");
  assert.equal(machine?.pid, machinePid(it.machines, "web"));
  assert.deepEqual([machine?.accelerator, machine?.autostart, machine?.memory], ["tcg", false, 192 * 2 ** 20]);
  assert.deepEqual(
    disks.map(({ name, alias, image: path }) => [name, alias, path]),
    [["web:vda", "virtio-disk0", image]],
  );
  for (const name of ["", "qmp", "console", "console.log", "qemu.log", "pid"]) {
    assert.equal(statSync(join(it.machines, "web", name)).mode & 0o077, 0, name);
  }
  assert.equal((await it.daemon.domainXml({ params: { domain: "web" }, query: {}, body: {} })).xml, xml);
  await assert.rejects(it.run(xml), { code: "in-use", message: /'web' runs already \(pid \d+\)/ });
  await assert.rejects(it.start("web"), { code: "in-use" });
  await assert.rejects(it.remove("web"), { code: "in-use", message: /stop it first/ });
  killMachines(it.machines);
  await it.until("web", stopped);
  await it.remove("web");
  assert.deepEqual([existsSync(join(it.machines, "web")), existsSync(image)], [false, true]);
  await assert.rejects(it.show("web"), { code: "not-found" });
});

test("a machine that is killed stays stopped, with the reason, and starts again when it is told to", async (t) => {
  const it = await bench(t);
  const first = await it.run(machineXml({ name: "web" }));
  process.kill(first.machine!.pid!, "SIGKILL");
  const { machine } = await it.until("web", stopped);
  assert.equal(machine?.end?.reason, "killed by signal 9 (SIGKILL)");
  assert.equal(machine?.pid, undefined);
  const again = await it.start("web");
  assert.notEqual(again.machine?.pid, first.machine?.pid);
  assert.equal(again.machine?.end, undefined);
  process.kill(again.machine!.pid!, "SIGTERM");
  assert.equal((await it.until("web", stopped)).machine?.end?.reason, "QEMU was ended by signal 15");
  assert.deepEqual(
    (await it.events()).filter((event) => event.startsWith("domain-stopped")),
    [
      "domain-stopped: The domain 'web' has ended: killed by signal 9 (SIGKILL)",
      "domain-stopped: The domain 'web' has ended: QEMU was ended by signal 15",
    ],
  );
});

test("a stopped machine can be made anew, and a domain of others' is left alone", async (t) => {
  const it = await bench(t);
  const { machine, qmp } = await it.run(machineXml({ name: "web" }), true);
  process.kill(machine!.pid!, "SIGKILL");
  await it.until("web", stopped);
  const larger = machineXml({ name: "web" }).replace(">192<", ">64<");
  const { machine: second } = await it.run(larger);
  assert.deepEqual([second?.memory, second?.autostart], [64 * 2 ** 20, true]);
  process.kill(second!.pid!, "SIGKILL");
  await it.until("web", stopped);
  await it.store.addDomain({ id: "1", name: "db", qmp, createdAt: 1 });
  await it.reboot("first");
  await assert.rejects(it.run(machineXml({ name: "db" })), { code: "refused", message: /somebody else runs it/ });
  await assert.rejects(it.start("db"), { code: "refused" });
});

test("a daemon that comes back finds its machines, and hears how others ended", async (t) => {
  const it = await bench(t);
  const lives = await it.run(machineXml({ name: "lives" }));
  const dies = await it.run(machineXml({ name: "dies" }));
  await it.run(machineXml({ name: "lost" }));
  await it.daemon.close();
  process.kill(dies.machine!.pid!, "SIGKILL");
  for (const file of ["shell", "pid"]) {
    process.kill(Number(readFileSync(join(it.machines, "lost", file), "latin1")), "SIGKILL");
  }
  await it.boot("first");
  const found = await it.show("lives");
  assert.deepEqual([found.state, found.machine?.pid], ["running", lives.machine?.pid]);
  assert.equal((await it.until("dies", stopped)).machine?.end?.reason, "killed by signal 9 (SIGKILL)");
  assert.equal((await it.until("lost", stopped)).machine?.end?.reason, "ended, and nobody saw how");
  process.kill(found.machine!.pid!, "SIGKILL");
  assert.equal((await it.until("lives", stopped)).machine?.end?.reason, "killed by signal 9 (SIGKILL)");
});

test("a machine whose launch is under way when the daemon ends is found when it is up", async (t) => {
  const it = new Bench(t);
  const emulator = join(it.images, "slow");
  const qemu = 'exec qemu-system-x86_64 "$@"';
  writeFileSync(emulator, `#!/bin/sh\nuntil test -e ${it.images}/go; do sleep 0.1; done\n${qemu}\n`, { mode: 0o755 });
  await it.boot("first", { emulator });
  const launching = assert.rejects(it.run(machineXml({ name: "web" })));
  while (!existsSync(join(it.machines, "web", "shell"))) await sleep(20);
  assert.equal((await it.show("web")).state, "starting");
  await it.daemon.close();
  await launching;
  const booted = it.boot("first");
  writeFileSync(join(it.images, "go"), "");
  await booted;
  const { state, machine } = await it.show("web");
  assert.deepEqual([state, machine?.pid], ["running", machinePid(it.machines, "web")]);
});

test("after a reboot of the host those start that are to, but for those that were stopped on purpose", async (t) => {
  const it = await bench(t);
  for (const name of ["auto", "shut", "taken"]) await it.run(machineXml({ name }), true);
  await it.run(machineXml({ name: "plain" }), false);
  // As when the host takes it down before it ends the daemon.
  process.kill(machinePid(it.machines, "taken"), "SIGTERM");
  await it.until("taken", stopped);
  const shut = await it.stop("shut", true);
  assert.deepEqual([shut.state, shut.machine?.end?.reason], ["stopped", "QEMU was told to quit"]);
  // There is no guest that would listen.
  await assert.rejects(it.stop("auto", false), { code: "in-use" });
  await it.reboot("second");
  for (const name of ["auto", "taken"]) await it.until(name, ({ state }) => state === "running");
  assert.deepEqual([(await it.show("plain")).state, (await it.show("shut")).state], ["stopped", "stopped"]);
  assert.equal((await it.show("plain")).machine?.end?.reason, "host rebooted");
  assert.ok((await it.events()).includes("domain-stopped: The domain 'auto' has ended: host rebooted"));
  // A daemon that starts again without its host changes nothing.
  process.kill(machinePid(it.machines, "auto"), "SIGKILL");
  await it.until("auto", stopped);
  await it.daemon.close();
  await it.boot("second");
  assert.equal((await it.show("auto")).state, "stopped");
});

test("a machine that can't start with its host yet is tried again", async (t) => {
  const it = await bench(t);
  const image = join(it.images, "a.raw");
  writeFileSync(image, Buffer.alloc(2 ** 20));
  await it.run(machineXml({ name: "web", devices: imageDisk(image, "raw") }), true);
  await it.daemon.close();
  killMachines(it.machines);
  const content = readFileSync(image);
  rmSync(image);
  await it.boot("second");
  while (
    !(await it.events()).some((event) => /did not start with its host, and is tried again: .*a\.raw/.test(event))
  ) {
    await sleep(50);
  }
  writeFileSync(image, content);
  await it.until("web", ({ state }) => state === "running");
});

test("one that QEMU refuses says why, and is not kept", async (t) => {
  const it = await bench(t);
  const more = "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline>";
  await assert.rejects(it.run(machineXml({ name: "web", more })), {
    code: "refused",
    message: /QEMU of 'web' ended at once \(exit code 1: .*-nonsense: invalid option\)/,
  });
  await assert.rejects(it.show("web"), { code: "not-found" });
  assert.equal(existsSync(join(it.machines, "web")), false);
  const image = join(it.images, "a.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "1M");
  await it.run(machineXml({ name: "one", devices: imageDisk(image, "qcow2") }));
  const second = machineXml({ name: "two", devices: imageDisk(image, "qcow2") });
  await assert.rejects(it.run(second), { code: "in-use", message: /another process using the image .*a\.qcow2/ });
});

test("what a machine names lies where the daemon may open it", async (t) => {
  const it = await bench(t);
  const serial = "<serial type='file'><source path='/etc/console.log'/></serial>";
  const nbd =
    "<disk type='network'><source protocol='nbd' name=''><host transport='unix' socket='/run/x.sock'/></source><target dev='vda'/></disk>";
  const refused = [
    machineXml({ name: "web", os: "<kernel>/etc/shadow</kernel>" }),
    machineXml({ name: "web", os: `<kernel>${it.images}/k</kernel><initrd>/etc/shadow</initrd>` }),
    machineXml({ name: "web", devices: imageDisk("/etc/shadow", "raw") }),
    machineXml({ name: "web", devices: serial }),
    machineXml({ name: "web", devices: nbd }),
  ];
  for (const xml of refused) await assert.rejects(it.run(xml), { code: "refused", message: /--allow/ }, xml);
  const list = machineXml({
    name: "web",
    os: `<kernel>${it.images}/k</kernel><initrd>${it.images}/i,/etc/shadow</initrd>`,
  });
  await assert.rejects(it.run(list), { code: "refused", message: /takes the path of the <initrd> '.*' for a list/ });
  const image = join(it.images, "a.qcow2");
  qemuImg("create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", image, "1M");
  const below = machineXml({ name: "web", devices: imageDisk(image, "qcow2") });
  await assert.rejects(it.run(below), { code: "refused", message: /\/etc\/shadow/ });
  const emulator = machineXml({ name: "web", devices: "<emulator>/bin/true</emulator>" });
  await assert.rejects(it.run(emulator), { code: "refused", message: /asks for the emulator '\/bin\/true'/ });
});

test("arguments of QEMU's own are refused where the daemon is to refuse them, also of a machine that it knows", async (t) => {
  const it = await bench(t);
  const more = "<qemu:commandline><qemu:arg value='-nic'/><qemu:arg value='none'/></qemu:commandline>";
  await it.run(machineXml({ name: "web", more }));
  await it.stop("web", true);
  await it.daemon.close();
  await it.boot("first", { refuseQemuArguments: true });
  const refused = { code: "refused", message: /'web' has arguments of QEMU's of its own \(-nic none\)/ };
  await assert.rejects(it.start("web"), refused);
  await assert.rejects(it.run(machineXml({ name: "web", more })), refused);
  await it.run(machineXml({ name: "web" }));
});

test("a stream of a machine's disk waits over a reboot until the machine runs again, and goes with its domain", async (t) => {
  const it = await bench(t);
  const [base, image] = [join(it.images, "base.raw"), join(it.images, "a.qcow2")];
  writeFileSync(base, noise(4 * 2 ** 20, 1));
  qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image);
  await it.run(machineXml({ name: "web", devices: imageDisk(image, "qcow2") }));
  const on = { params: { disk: "web:vda" }, query: {} };
  const { missingBytes } = await it.daemon.startStream({ ...on, body: { speed: 65_536, priority: 0 } });
  await it.reboot("second");
  const waits = async () => {
    const { state, reason } = await it.daemon.streamInfo({ ...on, body: {} });
    assert.notEqual(state, "failed", reason?.message);
    return state === "waiting" && reason?.code !== "queued";
  };
  await until(waits);
  assert.ok((await it.daemon.streamInfo({ ...on, body: {} })).missingBytes >= missingBytes / 2, "what is known stays");
  await it.start("web");
  await it.daemon.setSpeed({ ...on, body: { speed: null } });
  await until(async () => (await it.daemon.streamInfo({ ...on, body: {} })).state === "completed");

  await it.stop("web", true);
  qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image);
  await it.start("web");
  await it.daemon.startStream({ ...on, body: { speed: 65_536, priority: 0 } });
  await it.reboot("third");
  await it.remove("web");
  assert.deepEqual(await it.store.jobs({ states: UNFINISHED_STATES, limit: 10 }), []);
});

test("a QEMU that has said that it ends, and does not, is woken", async (t) => {
  const it = new Bench(t);
  await it.boot("first", { emulator: stubbornEmulator(join(it.images, "emulator")) });
  const { machine } = await it.run(machineXml({ name: "web" }));
  process.kill(machine!.pid!, "SIGTERM");
  const { machine: after } = await it.until("web", stopped);
  assert.equal(after?.end?.reason, "QEMU ended: host-signal");
});
